"""The model, and its training in two stages: weights in few bits, then everything."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import qjax
from qjax import gradients, train
from qjax.recipes import squashed

CONTEXT = 24
"""Frames that one output sees: the model keeps nothing else between frames."""


GAIN = "int8:float32"
"""What gains are rounded to in the second stage."""


class Affine(nn.Module):
    """A normalization whose statistics stand still: a gain of eight bits and a bias per feature."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1],)
        gain = self.param("gain", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        return x * gradients.through(gain, qjax.cast(gain, GAIN)) + bias


class Spotter(nn.Module):
    """Maps the last frames [..., CONTEXT * BANDS] to logits [..., 2]: three dense layers.

    Attributes:
      width: Features of the hidden layers.
      folded: Whether each normalization is a gain and a bias, as in the second stage.
    """

    width: int = 48
    folded: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        for n, features in enumerate((self.width, self.width, 2)):
            x = nn.relu(x) if n else x
            x = nn.Dense(features, use_bias=False, name=f"dense_{n}")(x)
            if self.folded:
                x = Affine(name=f"norm_{n}")(x)
            else:
                x = nn.BatchNorm(not train, momentum=0.9, name=f"norm_{n}")(x)
        return x


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
      steps: Of the first stage; the second takes a quarter as many.
      batch: Recordings per step.
      rate: Adam's learning rate in the first stage; a tenth of it in the second.
      width: Features of the hidden layers.
      seeds: Of parameters and order; all runs are one program.
    """

    steps: int = 600
    batch: int = 64
    rate: float = 2e-3
    width: int = 48
    seeds: tuple[int, ...] = (0,)

    @property
    def second(self) -> int:
        """Steps of the second stage."""
        return max(self.steps // 4, 1)

    @property
    def whole(self) -> "Plan":
        """The plan of one stage that takes as many steps as both."""
        return dataclasses.replace(self, steps=self.steps + self.second)


def quantized(plan: Plan, recipe: Any, *, folded: bool) -> Any:
    """The model in a recipe, or in float32 where that is None."""
    model = Spotter(plan.width, folded)
    return model if recipe is None else qjax.quantize(model, recipe)


def fit(model: Any, data: tuple[Any, Any], plan: Plan, *, after: Any = None) -> Any:
    """Trains one stage for all seeds.

    Args:
      model: Of either stage.
      data: Windows [N, T, F] and targets [N].
      plan: How long.
      after: Parameters to begin with, those of `folded`. Their kernels stay as they are, and with
        them the integers of the weights.

    Returns:
      The model's variables, each with a leading axis of the seeds.
    """
    inputs, targets = jnp.asarray(data[0]), jnp.asarray(data[1])
    rate, steps = (plan.rate, plan.steps) if after is None else (plan.rate / 10, plan.second)
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))
    if after is not None:
        optimizer = optax.chain(optimizer, train.freeze_after(0, ".*kernel"))
    mode = {"train": after is None}
    task = train.LinenTask(model=model, loss_fn=loss, train_kwargs=mode)
    step = train.Step(task=task, optimizer=optimizer)

    def run(seed: jax.Array, begin: Any) -> Any:
        first = {"inputs": inputs[: plan.batch], "targets": targets[: plan.batch]}
        state = step.init(jax.random.key(seed), first)
        state = state if begin is None else state.replace(params=begin)

        def body(state: train.State, t: jax.Array) -> Any:
            key = jax.random.fold_in(jax.random.key(seed + 1), t)
            index = jax.random.randint(key, (plan.batch,), 0, len(targets))
            return step(state, {"inputs": inputs[index], "targets": targets[index]})[0], None

        end = jax.lax.scan(body, state, jnp.arange(steps))[0]
        return {"params": end.params, **end.variables}

    return jax.jit(jax.vmap(run))(jnp.asarray(plan.seeds, jnp.int32), after)


def outputs(model: Any, variables: Any, x: jax.Array) -> list[jax.Array]:
    """What each normalization of a model gives, in order."""
    _, found = model.apply(variables, x, capture_intermediates=True, mutable=["intermediates"])
    held = found["intermediates"]
    return [held[name]["__call__"][0] for name in sorted(held) if name.startswith("norm_")]


def folded(variables: Any, model: Any, operand: Any, x: jax.Array) -> Any:
    """Parameters of the second stage from those of the first.

    Args:
      variables: Of one seed, after the first stage.
      model: That of the first stage.
      operand: How inputs of layers are quantized; its steps are found from what layers see, where
        the first stage has not learned them.
      x: Windows to see.
    """
    seen = [x, *map(nn.relu, outputs(model, variables, x))]
    params, found = variables["params"], {}
    for n, inputs in enumerate(seen[:-1]):
        norm, held = params[f"norm_{n}"], variables["batch_stats"][f"norm_{n}"]
        gain = norm["scale"] * jax.lax.rsqrt(held["var"] + 1e-5)
        found[f"norm_{n}"] = {"gain": gain, "bias": norm["bias"] - held["mean"] * gain}
        steps = {"fwd_lhs": operand.params(inputs, contract=(-1,), batch=())}
        found[f"dense_{n}"] = {"quant": steps, **params[f"dense_{n}"]}
    return found


def two_stages(data: tuple[Any, Any], plan: Plan, bits: int) -> tuple[Any, Any, Any]:
    """Trains weights of `bits` bits, then everything else with those weights kept.

    Returns:
      The model of the second stage, its variables, and those of the first; all variables have a
      leading axis of the seeds.
    """
    weights, everything = squashed.policy(bits), squashed.policy(bits, 8)
    early = quantized(plan, weights, folded=False)
    first = fit(early, data, plan)
    seen = jnp.asarray(data[0][: plan.batch])
    start = jax.vmap(lambda v: folded(v, early, everything.fwd.lhs, seen))(first)
    model = quantized(plan, everything, folded=True)
    return model, fit(model, data, plan, after=start), first


def one_stage(data: tuple[Any, Any], plan: Plan, bits: int) -> Any:
    """The parameters of the second stage where everything but gains is quantized from the start.

    Training takes as many steps as both stages; gains are rounded afterwards.
    """
    everything = squashed.policy(bits, 8)
    model = quantized(plan, everything, folded=False)
    trained = fit(model, data, plan.whole)
    seen = jnp.asarray(data[0][: plan.batch])
    return jax.vmap(lambda v: folded(v, model, everything.fwd.lhs, seen))(trained)


def of_seed(variables: Any, n: int) -> Any:
    """The variables of the n-th seed."""
    return jax.tree.map(lambda v: v[n], variables)


def false_detections(scores: np.ndarray, targets: np.ndarray, rejected: float = 0.05) -> float:
    """Share of other recordings detected where `rejected` of the keywords are missed."""
    threshold = np.quantile(scores[targets == 1], rejected)
    return float(np.mean(scores[targets == 0] >= threshold))
