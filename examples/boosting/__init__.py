"""Gradient boosting of histogram trees in JAX, with gradients of a few bits.

`bins` turns features into small integers, `histograms` gradients into smaller ones and their sums,
`trees` grows one tree, `boost` adds trees up. The command on top is `examples/gbdt.py`.
"""

from .bins import Bins as Bins
from .boost import LOSSES as LOSSES
from .boost import Forest as Forest
from .boost import Options as Options
from .boost import fit as fit
from .boost import predict as predict
