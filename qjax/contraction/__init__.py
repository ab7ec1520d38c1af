"""Contractions on quantized operands: what each leg computes in, and the one derivative rule."""

from qjax.contraction.convolution import conv_general_dilated as conv_general_dilated
from qjax.contraction.ops import dot_general as dot_general
from qjax.contraction.ops import einsum as einsum
from qjax.contraction.policy import Gemm as Gemm
from qjax.contraction.policy import Policy as Policy
from qjax.contraction.ragged import ragged_dot as ragged_dot
from qjax.contraction.ragged import ragged_dot_general as ragged_dot_general
