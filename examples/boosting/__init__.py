"""Gradient boosting of histogram trees in JAX, with gradients of a few bits.

`bins` turns features into small integers, `histograms` gradients into smaller ones and their sums,
`trees` grows one tree, `boost` adds trees up. The command on top is `examples/gbdt.py`.
"""

from boosting.bins import Bins as Bins
from boosting.boost import LOSSES as LOSSES
from boosting.boost import Forest as Forest
from boosting.boost import Options as Options
from boosting.boost import fit as fit
from boosting.boost import predict as predict
