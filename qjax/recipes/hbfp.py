"""Hybrid block floating point: narrow mantissas, one shared exponent per 64 elements.

All three products of every layer take block floating-point operands of M bits, sign included,
and everything else stays in float32. The shared exponent is that of the block's largest
magnitude, rounded up, so that mantissas are fractions below one. Operands are rounded
stochastically in the backward pass and to nearest in the forward pass; blocks run along the
contracted axis.

Sources: Drumond et al. 2018, "Training DNNs with Hybrid Block Floating Point" (arXiv
1804.01526); Harma et al. 2022, "Accuracy Booster" (arXiv 2211.10737), whose recommended block
of 64 could not be verified in the paper's text. The released code rounds stochastically in
the forward pass too and reuses one conversion for both directions; the paper's products are
followed here. Left out: the wide copy of the weights (weights stay in float32), and the
Booster's schedule of bits, which is a schedule over these recipes.
"""

from qjax import qtypes
from qjax.contraction import Gemm, Policy
from qjax.quantizer import Quantizer
from qjax.recipes.registry import LOGITS, Method, register
from qjax.recipes.rules import Recipe, Rule
from qjax.rounding import Stochastic

METHOD = Method(
    title="HBFP",
    paper="arXiv:1804.01526",
    cost="random bits for the operands of both gradients",
)


def policy(bits: int, block: int = 64) -> Policy:
    """Block floating point with mantissas of `bits` bits in all six operands."""
    qtype = qtypes.block_float(bits, block)
    nearest, noisy = Quantizer(qtype), Quantizer(qtype, rounding=Stochastic())
    return Policy(Gemm(nearest, nearest), Gemm(noisy, noisy), Gemm(noisy, noisy))


def _recipe(bits: int) -> Recipe:
    name = f"hbfp{bits}"
    return Recipe((LOGITS, Rule(".*", policy(bits), name=name)), name=name)


@register("hbfp8", METHOD)
def hbfp8() -> Recipe:
    """Mantissas of 8 bits."""
    return _recipe(8)


@register("hbfp6", METHOD)
def hbfp6() -> Recipe:
    """Mantissas of 6 bits."""
    return _recipe(6)


@register("hbfp5", METHOD)
def hbfp5() -> Recipe:
    """Mantissas of 5 bits."""
    return _recipe(5)


@register("hbfp4", METHOD)
def hbfp4() -> Recipe:
    """Mantissas of 4 bits."""
    return _recipe(4)
