"""Learning rate and weight decay in two stages, as ternary language models are trained.

The peak of the rate falls in the middle of the run, and weight decay ends before it does: large
early steps move weights between their three values, and decay, which keeps them near the
borders, would go on doing so at the end. Schedules of precision are `qjax.train.schedules`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from qjax._typing import Array, PyTree


def two_stage_rate(
    first: float, second: float, *, steps: int, warmup: int = 0, change: float = 0.5
) -> Callable[[Any], Array]:
    """Returns a linear decay to zero whose peak falls from one rate to another on the way.

    After `t` steps the rate is `peak * (1 - t / steps)`, where `peak` is `first` before
    `change * steps` and `second` from then on; the first `warmup` steps rise linearly.

    Args:
      first, second: Peaks of the two stages.
      steps: Steps of the run.
      warmup: Steps of the rise.
      change: Share of the run at which the peak changes.

    References:
      Kaushal et al. 2024, "Spectra", arXiv:2407.12327.
    """

    def rate(count: Any) -> Array:
        t = jnp.asarray(count, jnp.float32)
        peak = jnp.where(t < change * steps, jnp.float32(first), jnp.float32(second))
        rise = jnp.minimum(1.0, (t + 1) / (warmup + 1))
        return peak * rise * jnp.maximum(0.0, 1 - t / steps)

    return rate


class DecayState(NamedTuple):
    """The number of steps taken, int32."""

    count: Array


def decay_until(value: float, end: int) -> optax.GradientTransformation:
    """Adds `value` times the parameters to the updates, in the first `end` steps only."""

    def init(params: PyTree) -> DecayState:
        del params
        return DecayState(jnp.zeros((), jnp.int32))

    def update(updates: PyTree, state: Any, params: PyTree | None = None) -> Any:
        if params is None:
            raise ValueError(
                "`decay_until` adds a multiple of the parameters, but `params` is None. "
                "Call `update(grads, state, params)`."
            )
        factor = jnp.where(state.count < end, jnp.float32(value), 0.0)
        decayed = jax.tree.map(lambda u, p: u + factor.astype(p.dtype) * p, updates, params)
        return decayed, DecayState(state.count + 1)

    return optax.GradientTransformation(init, update)


def two_stage_adamw(
    first: float,
    second: float,
    *,
    steps: int,
    warmup: int = 0,
    weight_decay: float = 0.1,
    decay_share: float = 2 / 3,
    b2: float = 0.95,
) -> optax.GradientTransformation:
    """AdamW in two stages: `two_stage_rate`, and weight decay in the first part of the run.

    Args:
      first, second: Peaks of the learning rate before and after half of the run.
      steps: Steps of the run.
      warmup: Steps over which the rate rises.
      weight_decay: Decoupled weight decay; masked parameters are the caller's matter.
      decay_share: Share of the run after which it ends: 2/3 for TriLM, 1/2 for BitNet b1.58.
      b2: Decay of the second moment.
    """
    rate = two_stage_rate(first, second, steps=steps, warmup=warmup)
    adam = functools.partial(optax.scale_by_adam, b2=b2)
    return optax.chain(
        adam(),
        decay_until(weight_decay, round(decay_share * steps)),
        optax.scale_by_learning_rate(rate),
    )
