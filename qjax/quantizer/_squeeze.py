"""Shift and squeeze: a power and a factor per tensor fit its logarithms into a small float."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from qjax import casting, formats, tiling
from qjax import rounding as roundings
from qjax._typing import Array, Axes, DTypeLike, Key
from qjax.formats import STEP, split
from qjax.qtypes import QType

_ONE = 127 << 23  # The bits of 1.0.


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ShiftSqueeze:
    """S2FP8: `|y| = 2**beta * |x|**alpha` is stored in a small float.

    `alpha` and `beta` map the mean of `log2 |x|` over non-zero elements to 0 and its maximum to
    `target`, so that the format's range is used whatever the tensor's is. It is no scale: the map
    is not linear, so no dot product can be taken on the stored numbers.

    It stands where a `Quantizer` does: as the operand of a contraction, which multiplies the
    values that come back.

    Attributes:
      format: The small float.
      target: Exponent that the largest magnitude is mapped to.
      rounding: Which neighbour a mapped element rounds to.

    References:
      Cambier et al., "Shifted and squeezed 8-bit floating point", ICLR 2020, arXiv:2001.05674.
    """

    format: Any = formats.E5M2
    target: float = 15.0
    rounding: roundings.Rounding = dataclasses.field(default=roundings.NEAREST_EVEN, kw_only=True)

    @property
    def qtype(self) -> QType:
        """What an element is stored as; the two numbers per tensor are not counted."""
        return QType(self.format)

    @property
    def stochastic(self) -> bool:
        """Whether the rounding draws random bits, so that calls need a key."""
        return self.rounding.stochastic

    def cast(
        self,
        x: Array,
        *,
        contract: Axes = (-1,),
        batch: Axes = (),
        key: Key | None = None,
        dtype: DTypeLike | None = None,
    ) -> Array:
        """Returns `x` through the squeezed format.

        Args:
          x: Floating-point array.
          contract: Which axes a dot product sums over; the map is of the whole tensor.
          batch: Likewise of no influence.
          key: Key for stochastic rounding.
          dtype: Of the result; that of `x` by default.
        """
        casting.check_floating(x, "cast")
        tiling.resolve(x.shape, tiling.Tile(), contract, batch)
        alpha, beta = self.statistics(x)
        sign, size, log = _logarithm(x)
        squeezed = jnp.where(size > 0, _power(alpha * log + beta), 0)
        stored = casting.cast(squeezed, self.format, rounding=self.rounding, key=key)
        _, kept, log = _logarithm(stored)
        values = jnp.where(kept > 0, _power((log - beta) / alpha), 0)
        values = jnp.where(jnp.isfinite(x), jnp.where(sign < 0, -values, values), jnp.nan)
        return values.astype(x.dtype if dtype is None else dtype)

    def statistics(self, x: Array) -> tuple[Array, Array]:
        """Returns the float32 exponent `alpha` and shift `beta` of a tensor."""
        _, size, log = _logarithm(x)
        filled = size > 0
        mean = jnp.sum(jnp.where(filled, log, 0)) / jnp.maximum(
            jnp.sum(filled.astype(jnp.float32)), 1
        )
        top = jnp.max(jnp.where(filled, log, -jnp.inf), initial=-1e4)
        spread = top - mean
        alpha = jnp.where(spread > 0, self.target / jnp.where(spread > 0, spread, 1), 1.0)
        return alpha, -alpha * mean


def _logarithm(x: Array) -> tuple[Array, Array, Array]:
    """Returns sign bits, magnitude bits and the base-2 logarithms, exact for powers of two.

    The logarithm of zero is given as 0. Compiled logarithms and powers alone miss exact results
    in the last place.
    """
    sign, size, ordered = split(x)
    fraction = jax.lax.bitcast_convert_type((ordered & (STEP - 1)) | _ONE, jnp.float32)
    whole = ((ordered >> 23) - 127).astype(jnp.float32)
    return sign, size, jnp.where(size > 0, whole + jnp.log2(fraction), 0)


def _power(exponent: Array) -> Array:
    """Returns two to the power of float32 exponents, exact for whole ones."""
    whole = jnp.clip(jnp.round(exponent), -300, 300)
    return casting.times_power(jnp.exp2(exponent - whole), whole.astype(jnp.int32))
