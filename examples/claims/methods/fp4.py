"""The FP4 design space, swept: all scales, noises, transforms and gradients, ranked with cost."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax

from examples.claims import settings
from examples.claims.claim import Better, Claim, Near
from qjax import train
from qjax.recipes.fp4 import Design, space

DESIGNS, EXCLUDED = space()


def label(design: Design) -> str:
    cost = f"{design.qtype.bits_per_element:g} bits, {design.operations:.2g} operations"
    return f"{design.name} ({cost})"


def losses(
    seeds: Sequence[int],
    designs: Sequence[Design | None] = (None, *DESIGNS),
    table: str | None = None,
) -> dict[Design | None, list[float]]:
    """Held-out losses of designs and of float32 (None), a seed each; NaN where it diverged.

    What stands in `table` already, a CSV file, is not trained again.
    """
    setting = settings.teacher(steps=200, width=64, depth=2)
    task = setting.step().task

    def make_step(recipe: Any, rate: Any) -> train.Step:
        optimizer = optax.adam(lambda count: rate * setting.schedule()(count))
        return train.Step(task=task, optimizer=optimizer, recipe=recipe)

    names = {"float32" if d is None else d.name: d for d in designs}
    trials = [
        train.Trial(recipe=d and d.recipe(), seed=seed, columns={"design": name})
        for name, d in names.items()
        for seed in seeds
    ]
    # The same batches for all designs and seeds, which decide parameters and noise here.
    draw = jax.jit(lambda t: setting.batch(jax.random.fold_in(jax.random.key(0), t)))
    batches = [jax.tree.map(np.asarray, draw(t)) for t in range(setting.steps)]
    held_out = [jax.tree.map(np.asarray, setting.held_out)]
    rows = train.sweep(
        trials, make_step, batches, steps=setting.steps, held_out=held_out, table=table
    )
    found: dict[Design | None, list[float]] = {}
    for row in rows:
        loss = float(row["loss"]) if row["status"] == "ok" else float("nan")
        found.setdefault(names[row["design"]], []).append(loss)
    return found


def median(found: dict[Design | None, list[float]], **choices: Any) -> list[float]:
    """For each seed the median loss over designs with these choices; a diverged run is worst."""
    picked = [
        np.nan_to_num(values, nan=np.inf)
        for design, values in found.items()
        if design is not None and all(getattr(design, k) == v for k, v in choices.items())
    ]
    return [float(v) for v in np.median(picked, axis=0)]


# Medians over all designs that share a choice. Scales are compared under noise, which all have.
NOISE = {"noise": "gradients"}
MEDIANS: dict[str, dict[str, Any]] = {
    "nearest": {"noise": "none"},
    "noise": NOISE,
    "e8m0 floor": {**NOISE, "scale": "e8m0", "rule": "floor"},
    "e8m0 rceil": {**NOISE, "scale": "e8m0", "rule": "rceil", "tensor_scale": False},
    "e4m3": {**NOISE, "scale": "e4m3", "tensor_scale": False},
    "e4m3, tensor scale": {**NOISE, "scale": "e4m3", "tensor_scale": True},
    "ue5m3": {**NOISE, "scale": "ue5m3", "tensor_scale": False},
    "ue5m3, tensor scale": {**NOISE, "scale": "ue5m3", "tensor_scale": True},
    "ue5m3, noisy scales": {"noise": "gradients and scales", "scale": "ue5m3"},
    "ue5m3, plain scales": {**NOISE, "scale": "ue5m3"},
    "float32": {**NOISE, "scale": "float32"},
    "Hadamard": {"hadamard": True},
    "no Hadamard": {"hadamard": False},
    "nearest, Hadamard": {"noise": "none", "hadamard": True},
    "nearest, no Hadamard": {"noise": "none", "hadamard": False},
    "through gradient": {"gradient": "through"},
    "clipped gradient": {"gradient": "clipped"},
    "scale gradient": {"gradient": "scale"},
}


def run(seeds: Sequence[int]) -> dict[str, list[float]]:
    found = losses(seeds)
    figures = {"float32": found.pop(None)}
    figures |= {f"*{name}*": median(found, **choices) for name, choices in MEDIANS.items()}
    ranked = sorted(found.items(), key=lambda item: np.nan_to_num(np.mean(item[1]), nan=np.inf))
    return figures | {label(design): values for design, values in ranked}


def better(one: str, other: str) -> Better:
    return Better(better=f"*{one}*", worse=f"*{other}*")


def near(one: str, other: str) -> Near:
    return Near(arm=f"*{one}*", reference=f"*{other}*", margin=0.02)


CLAIMS = (
    Claim(
        name="fp4-design-space",
        method="fp4",
        says="Noise in gradients and precise scales matter most in FP4; other gradients do not.",
        published="best trade-off: Hadamard, tensor scaling and stochastic rounding; UE5M3 scales",
        evidence="abstract",
        setting="A perceptron 64-64-64-16 learns the labels of a random network, 200 steps of 64, "
        f"Adam; one sweep of the whole product, {len(DESIGNS)} designs ({len(EXCLUDED)} more "
        "combinations are none, and `space` says why), all layers in blocks of 16. First medians "
        "over all designs that share a choice, then designs, ranked, in brackets bits per element "
        "and extra operations per element (a mean over the six operands).",
        figure="held-out loss (nats)",
        run=run,
        expects=(
            better("noise", "nearest"),
            better("ue5m3", "e8m0 rceil"),
            better("e4m3, tensor scale", "e4m3"),
            near("ue5m3", "float32"),
            near("ue5m3", "e4m3, tensor scale"),
            near("through gradient", "scale gradient"),
            near("through gradient", "clipped gradient"),
            near("ue5m3, plain scales", "ue5m3, noisy scales"),
            better("nearest, Hadamard", "nearest, no Hadamard"),
            better("Hadamard", "no Hadamard"),
        ),
    ),
)
