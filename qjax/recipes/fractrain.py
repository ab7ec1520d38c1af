"""FracTrain: training in few bits, more when it turns (progressive) or where needed (dynamic).

Operands are rounded to unsigned integers between the smallest and the largest value: one range
per output for weights, one per tensor for activations and incoming gradients, which are rounded
stochastically.

Progressive: training begins in few bits and takes more whenever it stops getting better. `stages`
gives the recipes of the successive stages; they differ in numbers alone, so one compiled program
serves all of them: `train.TurningPoints(recipes=stages())` is the published rule for going on to
the next.

Dynamic: a small gate in every layer looks at a sample and chooses the bits of its activations and
gradients, and a price on the distance from a target holds the mean cost there (`dynamic`). Both
together are `train.TurningPoints(recipes=targets(...))`: the same gates, a target that rises.

Cost is the paper's: bits times bits of both operands over 32 x 32, a mean over the three products
(`cost`); what gates chose is measured in training (`measured`).

Source: Fu et al. 2020, "FracTrain" (arXiv 2012.13113), from the authors' code; the paper's text was
not read. There the upper end of a range is the smallest of the samples' largest values (a minimum
where a maximum was meant, it seems); the largest is taken here. Ranges are widened to hold zero.
There, too, a gate is two maps and an LSTM shared by residual blocks, it may skip a block, and the
target is for the mean of all blocks; here it is one linear map per layer, and every layer is held
to the target, so that layers trade no bits. Left out: running ranges for evaluation.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from qjax import formats
from qjax._typing import Array, PyTree
from qjax.contraction import Chosen, Gemm, Policy
from qjax.contraction.operands import Gated
from qjax.qtypes import QType
from qjax.quantizer import Quantizer
from qjax.recipes.registry import LOGITS, Method, register
from qjax.recipes.rules import Recipe, Rule
from qjax.rounding import Stochastic
from qjax.tiling import Tile

METHOD = Method(
    title="FracTrain (progressive)",
    paper="arXiv:2012.13113",
    cost="random bits for gradients; a rule on losses",
)
DYNAMIC = Method(
    title="FracTrain (dynamic)",
    paper="arXiv:2012.13113",
    cost="as progressive; a gate per layer, and here every choice computed",
)
FORWARD, BACKWARD = (3, 4, 6, 8), (6, 6, 8, 8)
CHOICES = ((3, 6), (4, 6), (4, 8), (6, 8), (6, 12))
"""Bits of activations and of gradients that a gate chooses from."""


def _between(bits: int, tile: Tile, *, noisy: bool = False) -> Quantizer:
    """Unsigned integers between the smallest and the largest value of a tile."""
    scale = QType(formats.FLOAT32)
    qtype = QType(formats.Int(bits, signed=False), tile, scale, zero=scale)
    return Quantizer(qtype, rounding=Stochastic()) if noisy else Quantizer(qtype)


def _legs(activation: Any, gradient: Any, weight: int, *, kept: bool) -> Policy:
    # The backward product sums over outputs, each of which keeps its own range.
    forward, backward = (_between(weight, tile) for tile in (Tile(None, 1), Tile(1, None)))
    return Policy(
        fwd=Gemm(activation, forward),
        dlhs=Gemm(gradient, backward),
        drhs=Gemm(None if kept else activation, gradient),
    )


def policy(forward: int, backward: int, weight: int | None = None) -> Policy:
    """Six operands between their smallest and largest values.

    Args:
      forward: Bits of activations in all three products.
      backward: Bits of incoming gradients.
      weight: Bits of weights; those of activations where None.
    """
    gradient, weight = _between(backward, Tile(), noisy=True), weight or forward
    return _legs(_between(forward, Tile()), gradient, weight, kept=False)


def gated(
    target: float = 0.03,
    *,
    price: float = 10.0,
    weight: int = 4,
    choices: Sequence[tuple[int, int]] = CHOICES,
) -> Policy:
    """Activations and gradients in the bits that a gate chooses for each sample.

    Args:
      target: Mean cost that is aimed at, as `cost` counts it.
      price: Of the distance from the target.
      weight: Bits of weights.
      choices: Bits of activations and of incoming gradients.
    """
    gate = Gated(
        choices=tuple(_between(forward, Tile()) for forward, _ in choices),
        costs=tuple(cost(forward, backward, weight) for forward, backward in choices),
        price=price,
        target=target,
    )
    gradient = Chosen(tuple(_between(backward, Tile(), noisy=True) for _, backward in choices))
    return _legs(gate, gradient, weight, kept=True)


def recipe(low: Policy, name: str = "fractrain") -> Recipe:
    """The recipe of one stage; the last layer stays in float32."""
    return Recipe((LOGITS, Rule(".*", low, name=name)), name=name)


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
    return tuple(recipe(policy(f, b)) for f, b in zip(forward, backward))


def targets(costs: Sequence[float] = (0.015, 0.02, 0.025, 0.03), **options: Any) -> tuple:
    """The recipes of successive targets, for a schedule; further arguments are those of `gated`."""
    return tuple(recipe(gated(cost, **options), "fractrain_dynamic") for cost in costs)


def cost(forward: float, backward: float, weight: float | None = None) -> float:
    """Share of the cost of a step in 32 bits: the mean of bits times bits over the products.

    Args:
      forward: Bits of activations.
      backward: Bits of incoming gradients.
      weight: Bits of weights; those of activations where None.
    """
    weight = forward if weight is None else weight
    products = forward * weight + backward * weight + forward * backward
    return products / (3 * 32 * 32)


def measured(variables: PyTree) -> Array:
    """The mean cost over layers of what gates chose in the last step, float32 scalar.

    Args:
      variables: Those of a model, with the collection that its operands remember in.
    """
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    costs = [leaf for path, leaf in leaves if getattr(path[-1], "key", None) == "cost"]
    return jnp.mean(jnp.stack(costs))


@register("fractrain", METHOD)
def fractrain() -> Recipe:
    """The last progressive stage, 8 bits; `stages` gives them all."""
    return recipe(policy(8, 8))


@register("fractrain_dynamic", DYNAMIC)
def fractrain_dynamic() -> Recipe:
    """Gates that choose from 3 to 6 bits forward and 6 to 12 backward, at 3 % of the cost."""
    return recipe(gated(), "fractrain_dynamic")
