"""Contractions on quantized operands: what each leg computes in, and the one derivative rule."""

from qjax.contraction import operands as operands
from qjax.contraction.accumulators import Accumulator as Accumulator
from qjax.contraction.accumulators import FloatAccumulator as FloatAccumulator
from qjax.contraction.accumulators import IntegerAccumulator as IntegerAccumulator
from qjax.contraction.accumulators import overflows as overflows
from qjax.contraction.choosing import Chosen as Chosen
from qjax.contraction.convolution import conv_general_dilated as conv_general_dilated
from qjax.contraction.matmul import matmul as matmul
from qjax.contraction.multipliers import LMul as LMul
from qjax.contraction.multipliers import Multiplier as Multiplier
from qjax.contraction.multipliers import ShiftAdd as ShiftAdd
from qjax.contraction.ops import dot_general as dot_general
from qjax.contraction.ops import einsum as einsum
from qjax.contraction.policy import Gemm as Gemm
from qjax.contraction.policy import Policy as Policy
from qjax.contraction.ragged import ragged_dot as ragged_dot
from qjax.contraction.ragged import ragged_dot_general as ragged_dot_general
from qjax.contraction.residuals import SAVED as SAVED
from qjax.contraction.sampling import LeverageSampling as LeverageSampling
from qjax.contraction.sampling import Sampling as Sampling
from qjax.contraction.splitting import BitSplit as BitSplit
from qjax.contraction.transforms import Hadamard as Hadamard
from qjax.contraction.transforms import Permutation as Permutation
from qjax.contraction.transforms import Smoothing as Smoothing
from qjax.contraction.transforms import Transform as Transform
