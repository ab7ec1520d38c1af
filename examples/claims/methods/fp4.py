"""The FP4 design space, swept: scales, noise, transforms and gradients, ranked with their cost."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax

from examples.claims import settings
from examples.claims.claim import Better, Claim, Near
from qjax import train
from qjax.recipes.fp4 import Design

PLAIN = Design(tensor_scale=False, hadamard=False, noise="none")
NOISY = dataclasses.replace(PLAIN, noise="gradients")
DESIGNS = {
    **{f"{s}, nearest": dataclasses.replace(PLAIN, scale=s) for s in ("e8m0", "ue5m3")},
    **{
        f"{s}, noise": dataclasses.replace(NOISY, scale=s)
        for s in ("e8m0", "e4m3", "ue5m3", "float32")
    },
    "e4m3, noise, tensor scale": dataclasses.replace(NOISY, scale="e4m3", tensor_scale=True),
    "ue5m3, noise, noisy scales": dataclasses.replace(NOISY, noise="gradients and scales"),
    "ue5m3, noise, Hadamard": dataclasses.replace(NOISY, hadamard=True),
    "ue5m3, noise, Hadamard, tensor scale": Design(),
    "ue5m3, noise, clipped gradient": dataclasses.replace(NOISY, gradient="clipped"),
    "ue5m3, noise, scale gradient": dataclasses.replace(NOISY, gradient="scale"),
}
NAMES = {
    name: f"{name} ({d.qtype.bits_per_element:g} bits, {d.operations:.2g} operations)"
    for name, d in DESIGNS.items()
}


def run(seeds: Sequence[int]) -> dict[str, list[float]]:
    setting = settings.teacher(steps=200, width=64, depth=2)
    task = setting.step().task

    def make_step(recipe: Any, rate: Any) -> train.Step:
        optimizer = optax.adam(lambda count: rate * setting.schedule()(count))
        return train.Step(task=task, optimizer=optimizer, recipe=recipe)

    trials = [
        train.Trial(recipe=d and d.recipe(), seed=seed, columns={"design": name})
        for name, d in {"float32": None, **DESIGNS}.items()
        for seed in seeds
    ]
    # The same batches for all designs and seeds, which decide parameters and noise here.
    draw = jax.jit(lambda t: setting.batch(jax.random.fold_in(jax.random.key(0), t)))
    batches = [jax.tree.map(np.asarray, draw(t)) for t in range(setting.steps)]
    held_out = [jax.tree.map(np.asarray, setting.held_out)]
    rows = train.sweep(trials, make_step, batches, steps=setting.steps, held_out=held_out)
    found: dict[str, list[float]] = {}
    for row in rows:
        loss = float(row["loss"]) if row["status"] == "ok" else float("nan")
        found.setdefault(NAMES.get(row["design"], "float32"), []).append(loss)
    return dict(sorted(found.items(), key=lambda item: np.nan_to_num(np.mean(item[1]), nan=np.inf)))


def better(one: str, other: str) -> Better:
    return Better(better=NAMES[one], worse=NAMES[other])


CLAIMS = (
    Claim(
        name="fp4-design-space",
        method="fp4",
        says="Noise in gradients and precise scales matter most in FP4; other gradients do not.",
        published="best trade-off: Hadamard, tensor scaling and stochastic rounding; UE5M3 scales",
        evidence="abstract",
        setting="A perceptron 64-64-64-16 learns the labels of a random network, 200 steps of 64, "
        "Adam; one sweep, all layers in blocks of 16, arms ranked, in brackets bits per element "
        "and extra operations per element (a mean over the six operands).",
        figure="held-out loss (nats)",
        run=run,
        expects=(
            better("ue5m3, noise", "ue5m3, nearest"),
            better("ue5m3, noise", "e8m0, noise"),
            Near(arm=NAMES["ue5m3, noise"], reference=NAMES["float32, noise"], margin=0.02),
            Near(
                arm=NAMES["ue5m3, noise"],
                reference=NAMES["ue5m3, noise, scale gradient"],
                margin=0.02,
            ),
            Near(
                arm=NAMES["ue5m3, noise"],
                reference=NAMES["ue5m3, noise, noisy scales"],
                margin=0.02,
            ),
            better("ue5m3, noise, Hadamard", "ue5m3, noise"),
        ),
    ),
)
