"""QFX: fixed-point numbers whose binary point is learned, equal to hardware's to the bit.

Both operands of a product are integers of a few bits times a power of two, rounded half up and
saturated as `ap_fixed` does by AP_RND and AP_SAT. The number of bits before the binary point is a
parameter; it receives the gradient of the step. With few ones in a weight's integer a product is
that many shifts and additions, and no multiplier is needed. Products and sums are exact as long
as they fit the 24 digits of float32.

Source: "Trainable fixed-point quantization for deep learning acceleration on FPGAs", 2024 (arXiv
2401.17544). Read: its abstract, and a review that gives the cast (shift, round, overflow, shift
back) and the limit on ones. The gradient is derived from that of a learned step, and whether
signed digits count as ones could not be verified; here the ones of the magnitude count.
`operands.LearnedPoint.encode` exports the integers and shifts. What is computed between products,
such as normalizations and sums of residuals, is cast to fixed point through the door for functions:
`qjax.quantize(f, recipe, elementwise=Quantizer("fixed4.3", rounding=NearestUp()))`, with one point
for all that is given and not learned, as the paper's is.
"""

from qjax.contraction import Gemm, Policy
from qjax.contraction.operands import LearnedPoint
from qjax.recipes.registry import Method, register
from qjax.recipes.rules import Recipe, Rule
from qjax.rounding import NearestUp

METHOD = Method(title="QFX", paper="arXiv:2401.17544", cost="a learned binary point per operand")


def policy(bits: int, ones: int | None = None) -> Policy:
    """Learned binary points for the two operands of the forward product.

    Args:
      bits: Of both.
      ones: The most ones in the integer of a weight; None for any number.
    """
    activations = LearnedPoint(bits=bits, rounding=NearestUp())
    weights = LearnedPoint(bits=bits, rounding=NearestUp(), ones=ones)
    return Policy(fwd=Gemm(activations, weights))


def recipe(name: str, bits: int, ones: int | None = None) -> Recipe:
    """The recipe of `policy`, in every layer."""
    return Recipe((Rule(".*", policy(bits, ones), name=name),), name=name)


@register("qfx8", METHOD)
def qfx8() -> Recipe:
    """Eight bits."""
    return recipe("qfx8", 8)


@register("qfx4", METHOD)
def qfx4() -> Recipe:
    """Four bits."""
    return recipe("qfx4", 4)


@register("qfx8_2hot", METHOD)
def qfx8_2hot() -> Recipe:
    """Eight bits, two ones in a weight: a product is two shifts."""
    return recipe("qfx8_2hot", 8, ones=2)


@register("qfx8_1hot", METHOD)
def qfx8_1hot() -> Recipe:
    """Eight bits, one one in a weight: a product is a shift."""
    return recipe("qfx8_1hot", 8, ones=1)
