"""Bounds that remember: a history of maxima and a moving average.

Both bound this call by what earlier calls saw, so that no pass over the tensor stands before its
cast. The state is an ordinary array that the caller keeps.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from qjax._typing import Array, Shape
from qjax.calibration._base import Calibration, largest, magnitude, pattern


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Delayed(Calibration):
    """The largest magnitude of the last calls (delayed scaling, as in FP8 training recipes).

    The first call, with nothing remembered, is bounded by its own tensor. A bound that is not
    finite is not remembered.

    Attributes:
      length: Number of calls remembered.
    """

    length: int = 16
    stateful: ClassVar[bool] = True

    def init(self, shape: Shape) -> Array:
        """Returns an empty history, float32 of shape `(length, *shape)`."""
        return jnp.zeros((self.length, *shape), jnp.float32)

    def __call__(self, view: Array, axes: tuple[int, ...], state: Any = ()) -> tuple[Array, Any]:
        now = magnitude(largest(view, axes))
        past = jnp.max(state, axis=0)
        bound = jnp.where(past > 0, past, now)
        seen = jnp.where(jnp.isfinite(now), now, past)
        return pattern(bound), jnp.concatenate([seen[None], state[:-1]])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MovingAverage(Calibration):
    """An exponential moving average of the largest magnitudes of earlier calls and this one.

    Attributes:
      decay: Weight of the past at every call, in [0, 1).
    """

    decay: Any = 0.9
    stateful: ClassVar[bool] = True

    def init(self, shape: Shape) -> Array:
        """Returns float32 zeros of `shape`: nothing seen."""
        return jnp.zeros(shape, jnp.float32)

    def __call__(self, view: Array, axes: tuple[int, ...], state: Any = ()) -> tuple[Array, Any]:
        now = magnitude(largest(view, axes))
        now = jnp.where(jnp.isfinite(now), now, state)
        average = jnp.where(state > 0, self.decay * state + (1 - self.decay) * now, now)
        return pattern(average), average
