"""Trained operands: what a forward operand goes through, with what it learns and remembers.

A recipe for quantization-aware training puts one of these where a Quantizer would stand. A
method that is not here is a few lines on `Operand`; its docstring has an example.
"""

from qjax.contraction.operands._base import Granularity as Granularity
from qjax.contraction.operands._base import Operand as Operand
from qjax.contraction.operands._base import learned_shape as learned_shape
from qjax.contraction.operands._bounded import L1Bounded as L1Bounded
from qjax.contraction.operands._estimated import Estimated as Estimated
from qjax.contraction.operands._estimated import Mapped as Mapped
from qjax.contraction.operands._estimated import ScaleGradient as ScaleGradient
from qjax.contraction.operands._fixed import LearnedPoint as LearnedPoint
from qjax.contraction.operands._gated import Gated as Gated
from qjax.contraction.operands._learned import LSQ as LSQ
from qjax.contraction.operands._learned import PACT as PACT
from qjax.contraction.operands._learned import LearnedBits as LearnedBits
from qjax.contraction.operands._learned import LSQPlus as LSQPlus
from qjax.contraction.operands._levels import SoftLevels as SoftLevels
from qjax.contraction.operands._levels import Spaced as Spaced
