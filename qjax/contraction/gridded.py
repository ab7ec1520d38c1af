"""Operands that came to a leg rounded already, where its sum wants integers.

A trained operand is applied before the derivative rule of its contraction, as ordinary code, and
gives values. Where these are integers times a known step, an integer accumulator can have them.
"""

import dataclasses

import jax
import jax.numpy as jnp

from qjax._typing import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OnGrid:
    """Stands in a slot of a leg, for an operand whose values are integers times `step`.

    Attributes:
      step: Float32, a number or one along the contracted axes: it broadcasts to the operand.
    """

    step: Array

    @property
    def stochastic(self) -> bool:
        """Nothing is drawn any more."""
        return False

    def codes(self, x: Array) -> tuple[Array, Array]:
        """The int32 integers of an operand, and the step: a number, or one per element."""
        whole = jnp.round(x.astype(jnp.float32) / self.step).astype(jnp.int32)
        return whole, self.step if not self.step.ndim else jnp.broadcast_to(self.step, x.shape)
