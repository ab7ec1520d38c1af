"""Shift and squeeze: a power and a factor per tensor fit its logarithms into a small float."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from qjax import casting, formats
from qjax import rounding as roundings
from qjax._typing import Array, Key


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ShiftSqueeze:
    """S2FP8: `|y| = 2**beta * |x|**alpha` is stored in a small float.

    `alpha` and `beta` map the mean of `log2 |x|` over non-zero elements to 0 and its maximum to
    `target`, so that the format's range is used whatever the tensor's is. It is no scale: the map
    is not linear, so no dot product can be taken on the stored numbers.

    Attributes:
      format: The small float.
      target: Exponent that the largest magnitude is mapped to.

    References:
      Cambier et al., "Shifted and squeezed 8-bit floating point", ICLR 2020, arXiv:2001.05674.
    """

    format: Any = formats.E5M2
    target: float = 15.0

    def cast(
        self,
        x: Array,
        *,
        rounding: roundings.Rounding = roundings.NEAREST_EVEN,
        key: Key | None = None,
    ) -> Array:
        """Returns `x` through the squeezed format, in its dtype."""
        casting.check_floating(x, "cast")
        alpha, beta = self.statistics(x)
        size = jnp.abs(x.astype(jnp.float32))
        log = jnp.log2(jnp.where(size > 0, size, 1))
        squeezed = jnp.where(size > 0, jnp.exp2(alpha * log + beta), 0)
        stored = casting.cast(squeezed, self.format, rounding=rounding, key=key)
        back = jnp.exp2((jnp.log2(jnp.where(stored > 0, stored, 1)) - beta) / alpha)
        return (jnp.sign(x).astype(jnp.float32) * jnp.where(stored > 0, back, 0)).astype(x.dtype)

    def statistics(self, x: Array) -> tuple[Array, Array]:
        """Returns the float32 exponent `alpha` and shift `beta` of a tensor."""
        size = jnp.abs(x.astype(jnp.float32))
        filled = size > 0
        log = jnp.log2(jnp.where(filled, size, 1))
        mean = jnp.sum(jnp.where(filled, log, 0)) / jnp.maximum(
            jnp.sum(filled.astype(jnp.float32)), 1
        )
        top = jnp.max(jnp.where(filled, log, -jnp.inf), initial=-1e4)
        spread = top - mean
        alpha = jnp.where(spread > 0, self.target / jnp.where(spread > 0, spread, 1), 1.0)
        return alpha, -alpha * mean
