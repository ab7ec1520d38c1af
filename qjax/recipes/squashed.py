"""Sub-8-bit keyword spotting: squashed weights first, then everything else.

In the first stage weights alone are quantized: a hyperbolic tangent makes their distribution
nearly even, so that few evenly spaced levels are all used; weights of one bit are signs times the
mean magnitude. In the second the inputs of every product are quantized too, with a learned step,
and training goes on while the weights' integers stay as they are (`train.freeze_after`). Steps are
learned, not found from each input, so a model gives the same for a frame alone as for a whole
recording.

Source: Zeng et al. 2022, "Sub 8-bit quantization of streaming keyword spotting models for embedded
chipsets" (arXiv 2207.06920). Read: its abstract, which names the tangent, the two stages and the
widths (1, 4, 5, 8 bits), not its text or tables. The tangent is likely that of Strom et al. 2022,
"Squashed weight distribution", a parameter behind a tangent, known here from another's summary;
its unit, the root mean square, the signs and the learned steps are choices of ours. Left out:
what is no operand of a product; `examples/kws.py` has gains of eight bits and biases of 32.
"""

from qjax import calibration, gradients
from qjax.contraction import Gemm, Policy
from qjax.contraction.operands import LSQ, Estimated, Mapped
from qjax.formats import BINARY, FLOAT32, Int
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
      weight_bits: 1 to 16.
      activation_bits: 2 to 16; None in the first stage.
    """
    codes, bound = (
        (BINARY, calibration.Moments(second=0.0, first=1.0))
        if weight_bits == 1
        else (Int(weight_bits), calibration.AbsMax())
    )
    weights = Estimated(Quantizer(QType(codes, Tile(), QType(FLOAT32)), calibration=bound))
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
