"""Precision that goes up when training turns: the rule of progressive fractional quantization.

Unlike `Plateau`, which follows a moving average step by step, it compares mean losses of whole
periods, and asks for less and less change before the next level.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from qjax._typing import Array
from qjax.train.schedules import Schedule, check_alike, choose


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TurningState:
    """Where a run is between its turning points.

    Attributes:
      level: Index of the recipe in use, int32.
      threshold: Largest change that still counts as none, float32.
      window: Mean losses of the last periods, oldest first, float32; NaN where there is none.
      scale: Mean loss of the first periods, float32: what changes are relative to.
      periods: Periods that have ended, int32.
      total: Sum of the losses of the period that runs, float32.
      steps: Its steps, int32.
    """

    level: Array
    threshold: Array
    window: Array
    scale: Array
    periods: Array
    total: Array
    steps: Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class TurningPoints(Schedule):
    """Moves to the next recipe when the mean losses of recent periods hardly differ.

    At the end of a period its mean loss joins a window. Once that is full, training has turned if
    no loss in it is further from the newest than `threshold`, relative to the mean of the first
    periods. Then the next recipe begins, the window is emptied, and the threshold shrinks.

    Attributes:
      recipes: From the first to the last level, of one structure.
      period: Steps of a period; the authors take 400 of CIFAR, about an epoch.
      threshold: Largest relative change that counts as none.
      decay: What the threshold is multiplied by at the first `decays` turning points.
      decays: How often it shrinks.
      window: Periods that are compared, at least 2.
      warmup: Periods whose mean loss changes are relative to.

    References:
      Fu et al., "FracTrain", NeurIPS 2020, arXiv:2012.13113; numbers as in the authors' code.
    """

    recipes: tuple[Any, ...]
    period: int = 400
    threshold: float = 0.05
    decay: float = 0.3
    decays: int = 2
    window: int = 5
    warmup: int = 10

    def __post_init__(self) -> None:
        object.__setattr__(self, "recipes", tuple(self.recipes))
        if self.period < 1 or self.window < 2 or self.warmup < 1:
            raise ValueError(
                "`TurningPoints` takes a `period` and `warmup` of at least 1 and a `window` of at "
                f"least 2, but {self.period}, {self.warmup} and {self.window} came. Give more."
            )
        check_alike(self.recipes)

    def init(self) -> TurningState:
        return TurningState(
            level=jnp.int32(0),
            threshold=jnp.float32(self.threshold),
            window=jnp.full(self.window, jnp.nan, jnp.float32),
            scale=jnp.float32(0),
            periods=jnp.int32(0),
            total=jnp.float32(0),
            steps=jnp.int32(0),
        )

    def recipe(self, step: Array, state: TurningState) -> Any:
        del step
        return choose(self.recipes, state.level)

    def update(self, state: TurningState, metrics: Mapping[str, Array]) -> TurningState:
        total = state.total + metrics["loss"].astype(jnp.float32)
        running = dataclasses.replace(state, total=total, steps=state.steps + 1)
        ended = self._ended(state, total / self.period)
        over = running.steps >= self.period
        return jax.tree.map(lambda new, old: jnp.where(over, new, old), ended, running)

    def _ended(self, state: TurningState, mean: Array) -> TurningState:
        """The state after a period with this mean loss."""
        early = state.periods < self.warmup
        share = 1 / (state.periods + 1).astype(jnp.float32)
        scale = jnp.where(early, state.scale + (mean - state.scale) * share, state.scale)
        window = jnp.roll(state.window, -1).at[-1].set(mean)
        # A window that is not full holds NaN, which no comparison accepts.
        turned = jnp.all(jnp.abs(window - mean) <= state.threshold * scale)
        turned &= state.level < len(self.recipes) - 1
        shrinks = turned & (state.level < self.decays)
        return TurningState(
            level=state.level + turned.astype(jnp.int32),
            threshold=jnp.where(shrinks, state.threshold * self.decay, state.threshold),
            window=jnp.where(turned, jnp.nan, window),
            scale=scale,
            periods=state.periods + 1,
            total=jnp.float32(0),
            steps=jnp.int32(0),
        )
