"""FracTrain: training begins in few bits and takes more whenever it stops getting better.

Operands are rounded to unsigned integers between the smallest and the largest value: one range
per output for weights, one per tensor for activations and incoming gradients, which are rounded
stochastically. `stages` gives the recipes of the successive stages; they differ in numbers
alone, so one compiled program serves all of them: `train.TurningPoints(recipes=stages())` is the
published rule for going on to the next, and `cost` what a step costs in the paper's unit.

Source: Fu et al. 2020, "FracTrain" (arXiv 2012.13113), from the authors' code; the paper's text was
not read. There the upper end of a range is the smallest of the samples' largest values (a minimum
where a maximum was meant, it seems); the largest is taken here. Ranges are widened to hold zero.
Left out: the dynamic choice of bits per sample by a trained gate, and running ranges for
evaluation.
"""

from collections.abc import Sequence

from qjax import formats
from qjax.contraction import Gemm, Policy
from qjax.qtypes import QType
from qjax.quantizer import Quantizer
from qjax.recipes.registry import LOGITS, Method, register
from qjax.recipes.rules import Recipe, Rule
from qjax.rounding import Stochastic
from qjax.tiling import Tile

METHOD = Method(
    title="FracTrain", paper="arXiv:2012.13113", cost="random bits for gradients; a rule on losses"
)
FORWARD, BACKWARD = (3, 4, 6, 8), (6, 6, 8, 8)


def policy(forward: int, backward: int) -> Policy:
    """Six operands between their smallest and largest values.

    Args:
      forward: Bits of activations and weights in all three products.
      backward: Bits of incoming gradients.
    """

    def between(bits: int, tile: Tile) -> QType:
        scale = QType(formats.FLOAT32)
        return QType(formats.Int(bits, signed=False), tile, scale, zero=scale)

    activation, weight = (Quantizer(between(forward, t)) for t in (Tile(), Tile(None, 1)))
    # The backward product sums over outputs, each of which keeps its own range.
    weight_back = Quantizer(between(forward, Tile(1, None)))
    gradient = Quantizer(between(backward, Tile()), rounding=Stochastic())
    return Policy(
        fwd=Gemm(activation, weight),
        dlhs=Gemm(gradient, weight_back),
        drhs=Gemm(activation, gradient),
    )


def recipe(forward: int, backward: int) -> Recipe:
    """The recipe of one stage; the last layer stays in float32."""
    rule = Rule(".*", policy(forward, backward), name="fractrain")
    return Recipe((LOGITS, rule), name="fractrain")


def stages(
    forward: Sequence[int] = FORWARD, backward: Sequence[int] = BACKWARD
) -> tuple[Recipe, ...]:
    """The recipes of the successive stages, for a schedule.

    Args:
      forward: Bits of activations and weights, stage by stage.
      backward: Bits of incoming gradients, stage by stage.

    Raises:
      ValueError: If they differ in length.
    """
    if len(forward) != len(backward):
        raise ValueError(
            f"`stages` takes as many forward as backward bits, but {tuple(forward)} and "
            f"{tuple(backward)} came. Give one pair for every stage."
        )
    return tuple(recipe(f, b) for f, b in zip(forward, backward))


def cost(forward: float, backward: float) -> float:
    """Share of the cost of a step in 32 bits: the mean of bits times bits over the products.

    Args:
      forward: Bits of activations and weights.
      backward: Bits of incoming gradients.
    """
    return (forward * forward + 2 * forward * backward) / (3 * 32 * 32)


@register("fractrain", METHOD)
def fractrain() -> Recipe:
    """The last stage, 8 bits; `stages` gives them all."""
    return recipe(8, 8)
