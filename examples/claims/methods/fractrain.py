"""FracTrain: few bits first, more whenever the loss stops falling, and bits chosen by a gate."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

import qjax
from examples.claims import settings
from examples.claims.claim import Better, Claim, Near
from examples.claims.training import train_arm
from qjax import train
from qjax.recipes import fractrain

# The thresholds are those of the authors' code. A stage needs five periods at least, so that
# periods must be short for all stages to come in a short run.
RULE = {"period": 10, "threshold": 0.15, "decay": 0.4}
COSTS = [fractrain.cost(f, b) for f, b in zip(fractrain.FORWARD, fractrain.BACKWARD)]
# Bits of activations, gradients and weights. Two choices of the gate, one cheaper than its target
# and one dearer, and what is published to be matched.
FIXED = {
    "4 and 8 bits, fixed": (4, 8, 4),
    "6 and 8 bits, fixed": (6, 8, 4),
    "8 bits, fixed": (8, 8, 8),
}


@functools.cache
def progressive(seeds: tuple[int, ...]) -> Mapping[str, Mapping[str, Any]]:
    """Losses, and the mean cost of a step in percent of one in 32 bits."""
    setting, stages = settings.teacher(), fractrain.stages()
    rising = train.TurningPoints(recipes=stages, **RULE)

    def cost(state: train.State) -> jax.Array:
        level = 0 if state.schedule is None else state.schedule.level
        return jnp.float32(100) * jnp.asarray(COSTS, jnp.float32)[level]

    found = {"rising": train_arm(setting, setting.step(rising), seeds, watch=cost)}
    for name, stage in (("8 bits", 3), ("3 and 6 bits", 0)):
        found[name] = dict(train_arm(setting, setting.step(stages[stage]), seeds))
        found[name]["watched"] = [100 * COSTS[stage]] * len(seeds)
    return found


@functools.cache
def dynamic(seeds: tuple[int, ...]) -> Mapping[str, Mapping[str, Any]]:
    setting = settings.teacher()
    recipes = fractrain.targets()
    model = qjax.quantize(setting.model, recipes[0])
    task = train.LinenTask(model=model, loss_fn=settings.figures, quantize=qjax.quantize)
    rising = train.TurningPoints(recipes=recipes, **RULE)

    def cost(state: train.State) -> jax.Array:
        return 100 * fractrain.measured(state.variables)

    arms = {"gated": setting.step(recipes[-1]), "gated, rising": setting.step(rising, task=task)}
    found = {name: train_arm(setting, step, seeds, watch=cost) for name, step in arms.items()}
    for name, bits in FIXED.items():
        step = setting.step(fractrain.recipe(fractrain.policy(*bits)))
        found[name] = dict(train_arm(setting, step, seeds))
        found[name]["watched"] = [100 * fractrain.cost(*bits)] * len(seeds)
    return found


def figure(name: str, arms: Any, seeds: Sequence[int]) -> dict[str, list[float]]:
    """One figure of every arm, per seed."""
    return {arm: [float(v) for v in found[name]] for arm, found in arms(tuple(seeds)).items()}


LOSS, COST = "held-out loss (nats)", "cost of a step (% of 32 bits)"
RISING = (
    f"{settings.TEACHER} All layers; thresholds as published, periods of {RULE['period']} steps."
)
GATES = f"{settings.TEACHER} All layers, weights of 4 bits, a gate in each; target 3 %."
CLAIMS = (
    Claim(
        name="fractrain",
        method="fractrain",
        says="Bits that rise when training turns give what eight bits from the start give.",
        published="ResNet-38, CIFAR-10: +0.04 % accuracy at 48.8 % fewer bit operations",
        evidence="authors' code",
        setting=RISING,
        figure=LOSS,
        run=functools.partial(figure, "loss", progressive),
        expects=(
            Near(arm="rising", reference="8 bits", margin=0.03),
            Better(better="rising", worse="3 and 6 bits"),
        ),
    ),
    Claim(
        name="fractrain-cost",
        method="fractrain",
        says="Bits that rise when training turns cost half as much.",
        published="ResNet-38, CIFAR-10: 48.8 % fewer bit operations; CIFAR-100: 52.6 %",
        evidence="authors' code",
        setting=f"{RISING} Bits times bits, a mean over the products and over training.",
        figure=COST,
        run=functools.partial(figure, "watched", progressive),
        expects=(Better(better="rising", worse="8 bits"),),
    ),
    Claim(
        name="fractrain-dynamic",
        method="fractrain",
        says="Gates that choose bits for every sample lose little, at half of the cost.",
        published="ResNet-38, CIFAR-10: 92.49 % at cost 3 %; 92.66 % (8 bits, cost 6.25 %)",
        evidence="authors' code",
        setting=GATES,
        figure=LOSS,
        run=functools.partial(figure, "loss", dynamic),
        expects=(
            Near(arm="gated", reference="8 bits, fixed", margin=0.1),
            Better(better="gated", worse="4 and 8 bits, fixed"),
        ),
        note="Inputs are drawn alike here: none is easier than another, which gates live on; fixed "
        "bits that cost 3.4 % do better than gates that cost 3 %.",
    ),
    Claim(
        name="fractrain-dynamic-cost",
        method="fractrain",
        says="A price holds the cost of gates near its target.",
        published="targets of 1.5 to 4.5 % of the cost in 32 bits",
        evidence="authors' code",
        setting=GATES,
        figure=COST,
        run=functools.partial(figure, "watched", dynamic),
        expects=(
            Better(better="gated", worse="6 and 8 bits, fixed"),
            Better(better="gated, rising", worse="gated"),
        ),
    ),
)
