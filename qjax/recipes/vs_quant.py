"""VS-Quant: small integers with a whole scale for every 16 elements along the contracted axis.

A vector's scale is its largest magnitude over the largest integer, and is itself stored as an
unsigned integer of a few bits, in steps of one float for each output channel of a weight and
for each activation tensor. Elements are divided by the scale as it is stored. `w4a8` is the
paper's 4/8/6/10: four-bit weights with six-bit scales, eight-bit activations with ten-bit ones.
Gradients stay in high precision: this is a format to serve in. Post-training, weights are
packed (`qjax.pack`) and the float of the activations may be fixed from what was seen of them
(`qjax.capture(...).static(recipe)`); with the same recipe in training the gradients pass
straight through the rounding.

Source: Dai et al. 2021, "VS-Quant: Per-vector Scaled Quantization for Accurate Low-Precision Neural
Network Inference" (arXiv 2102.04503). Read: abstracts, and lecture notes with both levels; the rest
of the formulas is recalled and checked by number. There, elements are rounded with the scale before
it is rounded itself; dividing by the stored scale, as here, is closer. Not here: rounding products
of scales.
"""

from qjax import formats, qtypes
from qjax.contraction import Gemm, Policy
from qjax.qtypes import QType
from qjax.quantizer import Quantizer
from qjax.recipes.registry import LOGITS, Method, register
from qjax.recipes.rules import Recipe, Rule
from qjax.tiling import Tile

METHOD = Method(
    title="VS-Quant",
    paper="arXiv:2102.04503",
    cost="integer scales that multiply partial sums; a pass for the float of each tensor",
)
VECTOR = 16


def per_vector(bits: int, scale_bits: int, *, channels: bool, vector: int = VECTOR) -> QType:
    """Integers of `bits` bits with whole scales of `scale_bits` bits.

    Args:
      bits: Of an element, signed.
      scale_bits: Of a vector's scale, unsigned.
      channels: Whether each kept index has a float of its own; otherwise the tensor has one.
      vector: Elements of a vector.
    """
    tile = Tile(None, 1 if channels else None)
    scale = QType(formats.Int(scale_bits, signed=False), tile, qtypes.FLOAT32_SCALE)
    return QType(formats.Int(bits), Tile(vector, 1), scale)


def recipe(
    weight: int = 4, activation: int = 4, weight_scale: int = 4, activation_scale: int = 4
) -> Recipe:
    """Per-vector weights and activations; the arguments are bits, in the paper's order."""
    lhs = Quantizer(per_vector(activation, activation_scale, channels=False))
    rhs = Quantizer(per_vector(weight, weight_scale, channels=True))
    rule = Rule(".*", Policy(fwd=Gemm(lhs, rhs)), name="vs_quant")
    return Recipe((LOGITS, rule), name="vs_quant")


@register("vs_quant", METHOD)
def vs_quant() -> Recipe:
    """Everything in four bits: 4/4/4/4."""
    return recipe()


@register("vs_quant_w4a8", METHOD)
def w4a8() -> Recipe:
    """Four-bit weights and eight-bit activations: 4/8/6/10."""
    return recipe(4, 8, 6, 10)
