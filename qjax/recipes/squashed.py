"""Sub-8-bit keyword spotting: squashed weights first, then everything else.

In the first stage weights alone are quantized: a hyperbolic tangent makes their distribution
nearly even, so that few evenly spaced levels are all used. In the second the inputs of every
product are quantized too, with a learned step, and training goes on while the weights' integers
stay as they are (`train.freeze_after`). Steps are learned, not found from each input, so a model
gives the same for a frame alone as for a whole recording.

Source: "Sub 8-bit quantization of streaming keyword spotting models for embedded chipsets", 2022
(arXiv 2207.06920). Only its abstract was read, which names the tangent and the two stages; the
form of the tangent and the learned steps are choices of ours. Left out: codes of biases and
normalizations, which the paper's second stage has too, and one-bit weights.
"""

from qjax import gradients
from qjax.contraction import Gemm, Policy
from qjax.contraction.operands import LSQ, Estimated, Mapped
from qjax.formats import FLOAT32, Int
from qjax.qtypes import QType
from qjax.quantizer import Quantizer
from qjax.recipes.registry import Method, register
from qjax.recipes.rules import Recipe, Rule
from qjax.tiling import Tile

METHOD = Method(
    title="Squashed weights (keyword spotting)",
    paper="arXiv:2207.06920",
    cost="a hyperbolic tangent of the weights, a learned step of inputs",
)


def policy(weight_bits: int, activation_bits: int | None = None) -> Policy:
    """Squashed weights, and inputs with a learned step in the second stage.

    Args:
      weight_bits: 2 to 16.
      activation_bits: 2 to 16; None in the first stage.
    """
    weights = Estimated(Quantizer(QType(Int(weight_bits), Tile(), QType(FLOAT32))))
    inputs = None if activation_bits is None else LSQ(bits=activation_bits)
    return Policy(fwd=Gemm(inputs, Mapped(function=gradients.squash, then=weights)))


def recipe(name: str, weight_bits: int, activation_bits: int | None = None) -> Recipe:
    """The recipe of `policy`, in every layer."""
    return Recipe((Rule(".*", policy(weight_bits, activation_bits), name=name),), name=name)


@register("squashed_w4", METHOD)
def squashed_w4() -> Recipe:
    """The first stage with weights of 4 bits."""
    return recipe("squashed_w4", 4)


@register("squashed_w4a8", METHOD)
def squashed_w4a8() -> Recipe:
    """The second stage: inputs of 8 bits."""
    return recipe("squashed_w4a8", 4, 8)
