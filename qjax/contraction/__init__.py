"""Contractions on quantized operands: what each leg computes in, and the one derivative rule."""

from qjax.contraction.ops import dot_general as dot_general
from qjax.contraction.ops import einsum as einsum
from qjax.contraction.policy import Gemm as Gemm
from qjax.contraction.policy import Policy as Policy
