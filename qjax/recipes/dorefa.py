"""DoReFa: weights through a hyperbolic tangent, activations in [0, 1], gradients with noise.

Weights are squashed and divided by their largest, which fills [-1, 1] evenly, and rounded to
evenly spaced levels; one-bit weights are signs times the mean magnitude. Activations are clipped
to [0, 1]. Incoming gradients are rounded stochastically to levels between plus and minus the
largest of each sample; none of these levels is zero.

Source: Zhou et al. 2016, "DoReFa-Net" (arXiv 1606.06160), compared with the authors' code.
Activations are meant to follow a bounded function: what is outside [0, 1] is lost, so name layers
that see other inputs in `exempt`. As published, the first and the last layer stay in float32. Here
a sample is a row of the flattened batch, and the two products of the
backward pass draw their own noise.
"""

from qjax import calibration, gradients
from qjax.contraction import Gemm, Policy
from qjax.contraction.operands import Estimated, Mapped, Operand, Spaced
from qjax.formats import BINARY, FLOAT32, Codebook
from qjax.qtypes import QType
from qjax.quantizer import Quantizer
from qjax.recipes.registry import FIRST, LOGITS, Method, register
from qjax.recipes.rules import Recipe, Rule
from qjax.rounding import Stochastic
from qjax.tiling import Tile

METHOD = Method(
    title="DoReFa",
    paper="arXiv:1606.06160",
    cost="a hyperbolic tangent of the weights; random bits for gradients",
)


def weights(bits: int) -> Operand:
    """Squashed and evenly spaced; with one bit, signs times the mean magnitude."""
    if bits == 1:
        mean = calibration.Moments(second=0.0, first=1.0)
        return Estimated(Quantizer(QType(BINARY, Tile(), QType(FLOAT32)), calibration=mean))
    return Mapped(function=gradients.unit_tanh, then=Spaced(bits=bits, low=-1.0, high=1.0))


def levels(bits: int) -> Codebook:
    """`2**bits` evenly spaced values from -1 to 1."""
    top = (1 << bits) - 1
    return Codebook(tuple(2 * n / top - 1 for n in range(top + 1)), label=f"levels{bits}")


def policy(weight_bits: int, activation_bits: int, gradient_bits: int | None = None) -> Policy:
    """The operands of the forward product, and the cotangent of both gradients.

    Args:
      weight_bits: 1 to 16.
      activation_bits: 1 to 16.
      gradient_bits: 1 to 16; None leaves gradients in float32.
    """
    forward = Gemm(Spaced(bits=activation_bits), weights(weight_bits))
    if gradient_bits is None:
        return Policy(fwd=forward)
    # One scale per sample: of the two legs only one sums over samples.
    along, across = (
        Quantizer(QType(levels(gradient_bits), tile, QType(FLOAT32)), rounding=Stochastic())
        for tile in (Tile(None, 1), Tile(1, None))
    )
    return Policy(fwd=forward, dlhs=Gemm(along, None), drhs=Gemm(None, across))


def recipe(name: str, bits: tuple[int, int, int | None], exempt: str = FIRST) -> Recipe:
    """The recipe of `policy(*bits)`; the last layer and what `exempt` matches stay in float32."""
    rule = Rule(".*", policy(*bits), name=name)
    return Recipe((LOGITS, Rule(exempt, Policy(), name="exempt", optional=True), rule), name=name)


@register("dorefa_w8a8g8", METHOD)
def dorefa_w8a8g8() -> Recipe:
    """Eight bits everywhere."""
    return recipe("dorefa_w8a8g8", (8, 8, 8))


@register("dorefa_w1a2g6", METHOD)
def dorefa_w1a2g6() -> Recipe:
    """Signs for weights, two bits for activations, six for gradients."""
    return recipe("dorefa_w1a2g6", (1, 2, 6))
