"""The model, and its training in two stages: weights in few bits, then everything."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import qjax
from qjax import Policy, Recipe, train
from qjax.recipes import squashed

CONTEXT = 24
"""Frames that one output sees: the model keeps nothing else between frames."""


class Spotter(nn.Module):
    """Maps the last frames [..., CONTEXT * BANDS] to logits [..., 2]: three dense layers."""

    width: int = 48

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Dense(self.width, name="dense_0")(x))
        x = nn.relu(nn.Dense(self.width, name="dense_1")(x))
        return nn.Dense(2, name="dense_2")(x)


def windows(rows: np.ndarray) -> np.ndarray:
    """The last CONTEXT frames at every frame that has as many: [..., T - CONTEXT + 1, C * B]."""
    count = rows.shape[-2] - CONTEXT + 1
    parts = [rows[..., n : n + CONTEXT, :] for n in range(count)]
    stacked = np.stack(parts, axis=-3)
    return stacked.reshape(*stacked.shape[:-2], -1)


def detection(logits: jax.Array) -> jax.Array:
    """How much a recording sounds like the keyword: its best frame, [..., T, 2] to [...]."""
    return jnp.max(logits[..., 1] - logits[..., 0], axis=-1)


def loss(logits: jax.Array, batch: Any) -> jax.Array:
    """Cross-entropy of the detection of each recording."""
    return jnp.mean(
        optax.sigmoid_binary_cross_entropy(detection(logits), batch["targets"].astype(logits.dtype))
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """How long and how fast.

    Attributes:
      steps: Of each stage.
      batch: Recordings per step.
      rate: Adam's learning rate in the first stage; a tenth of it in the second.
      width: Features of the hidden layers.
      seed: Of parameters and order.
    """

    steps: int = 600
    batch: int = 64
    rate: float = 2e-3
    width: int = 48
    seed: int = 0


def fit(
    recipe: Recipe | None, data: tuple[Any, Any], plan: Plan, *, after: Any = None
) -> tuple[Any, Any]:
    """Trains one stage.

    Args:
      recipe: What the model computes in; None is float32.
      data: Windows [N, T, F] and targets [N].
      plan: How long.
      after: Parameters of an earlier stage. Its kernels then stay as they are, and with them the
        integers of its weights.

    Returns:
      The model and its parameters.
    """
    model = Spotter(plan.width) if recipe is None else qjax.quantize(Spotter(plan.width), recipe)
    inputs, targets = jnp.asarray(data[0]), jnp.asarray(data[1])
    rate = plan.rate if after is None else plan.rate / 10
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, plan.steps))
    if after is not None:
        optimizer = optax.chain(optimizer, train.freeze_after(0, ".*kernel"))
    step = train.Step(task=train.LinenTask(model=model, loss_fn=loss), optimizer=optimizer)
    first = {"inputs": inputs[: plan.batch], "targets": targets[: plan.batch]}
    state = step.init(jax.random.key(plan.seed), first)
    if after is not None:
        assert recipe is not None
        state = state.replace(params=calibrated(state.params, after, recipe, first["inputs"]))

    def body(state: train.State, t: jax.Array) -> Any:
        key = jax.random.fold_in(jax.random.key(plan.seed + 1), t)
        index = jax.random.randint(key, (plan.batch,), 0, len(targets))
        return step(state, {"inputs": inputs[index], "targets": targets[index]})[0], None

    end = jax.jit(lambda s: jax.lax.scan(body, s, jnp.arange(plan.steps))[0])(state)
    return model, end.params


def outputs(model: Any, params: Any, x: jax.Array) -> list[jax.Array]:
    """What each layer of a model gives, in order."""
    _, found = model.apply(
        {"params": params}, x, capture_intermediates=True, mutable=["intermediates"]
    )
    held = found["intermediates"]
    names = sorted(name for name in held if name.startswith("dense_"))
    return [held[name]["__call__"][0] for name in names]


def calibrated(params: Any, trained: Any, recipe: Recipe, x: jax.Array) -> Any:
    """Parameters of the second stage: trained layers, and steps found from what these see."""
    operand: Any = recipe.default.fwd.lhs
    weights_only = qjax.quantize(Spotter(width(trained)), _without_inputs(recipe))
    seen = [x, *map(nn.relu, outputs(weights_only, trained, x))]
    found = {}
    for n, name in enumerate(sorted(trained)):
        steps = operand.params(seen[n], contract=(-1,), batch=())
        found[name] = {**params[name], **trained[name], "quant": {"fwd_lhs": steps}}
    return found


def _without_inputs(recipe: Recipe) -> Policy:
    policy = recipe.default
    return dataclasses.replace(policy, fwd=dataclasses.replace(policy.fwd, lhs=None))


def width(params: Any) -> int:
    """Features of the hidden layers of a model with these parameters."""
    return int(params["dense_0"]["kernel"].shape[-1])


def two_stages(data: tuple[Any, Any], plan: Plan, bits: int) -> tuple[Any, Any, Any]:
    """Trains weights of `bits` bits, then inputs of eight with those weights kept.

    Returns:
      The model and parameters of the second stage, and those of the first.
    """
    _, first = fit(squashed.recipe("stage 1", bits), data, plan)
    model, second = fit(squashed.recipe("stage 2", bits, 8), data, plan, after=first)
    return model, second, first


def false_detections(scores: np.ndarray, targets: np.ndarray, rejected: float = 0.05) -> float:
    """Share of other recordings detected where `rejected` of the keywords are missed."""
    threshold = np.quantile(scores[targets == 1], rejected)
    return float(np.mean(scores[targets == 0] >= threshold))
