"""Loss scales keep small gradients of narrow-range formats from underflowing.

The loss is multiplied before differentiation and the gradients divided after it, by the same
power of two. A dynamic scale grows while gradients stay finite and shrinks when they do not;
that step is then skipped. Micikevicius et al., "Mixed Precision Training" (2018), section 3.2.
"""

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from qjax._typing import Array


class LossScale(abc.ABC):
    """How the factor on the loss is chosen; the state is part of the run's state."""

    skips: bool = False

    @abc.abstractmethod
    def init(self) -> Any:
        """Returns the state before the first step."""

    @abc.abstractmethod
    def value(self, state: Any) -> Array:
        """Returns the factor, float32 scalar."""

    @abc.abstractmethod
    def update(self, state: Any, finite: Array) -> Any:
        """Returns the next state, given whether this step's gradients were all finite."""


@dataclasses.dataclass(frozen=True)
class StaticScale(LossScale):
    """The same factor at every step."""

    factor: float = 1.0

    def init(self) -> Any:
        return None

    def value(self, state: Any) -> Array:
        return jnp.float32(self.factor)

    def update(self, state: Any, finite: Array) -> Any:
        return None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DynamicState:
    """The current factor (float32) and the number of finite steps since it last changed."""

    factor: Array
    finite_steps: Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class DynamicScale(LossScale):
    """Doubles after `interval` finite steps; halves, and skips the step, after an overflow.

    Attributes:
      initial: The first factor.
      interval: Finite steps between two growths.
      growth: Factor of a growth; a shrink divides by it.
      smallest, largest: Bounds of the factor.
    """

    initial: float = 2.0**15
    interval: int = 2000
    growth: float = 2.0
    smallest: float = 1.0
    largest: float = 2.0**24
    skips: bool = dataclasses.field(default=True, init=False)

    def init(self) -> DynamicState:
        return DynamicState(jnp.float32(self.initial), jnp.int32(0))

    def value(self, state: DynamicState) -> Array:
        return state.factor

    def update(self, state: DynamicState, finite: Array) -> DynamicState:
        count = jnp.where(finite, state.finite_steps + 1, 0)
        grow = count >= self.interval
        factor = jnp.where(grow, state.factor * self.growth, state.factor)
        factor = jnp.where(finite, factor, state.factor / self.growth)
        factor = jnp.clip(factor, self.smallest, self.largest)
        return DynamicState(factor, jnp.where(grow, 0, count))
