"""What the products of a contraction are summed in.

An accumulator says what the sum of a chain of products is, product by product, so that an
emulation equals the loop that hardware runs. It does not multiply (`multipliers` does) and knows
no operation; `emulation` feeds it.
"""

import abc
import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from qjax import casting, formats
from qjax import rounding as roundings
from qjax._typing import Array
from qjax.formats import Format

Overflow = Literal["saturate", "wrap"]


class Accumulator(abc.ABC):
    """A rule for the sum of a chain of products.

    Products are added in the order of the contracted axes, flattened as they stand in the first
    operand. Every `length` of them make a chain; the sums of chains are added in float32, in
    order.
    """

    length: int | None

    @abc.abstractmethod
    def add(self, total: Array, product: Array) -> Array:
        """The sum after one more product."""

    @abc.abstractmethod
    def close(self, total: Array) -> Array:
        """The sum of a chain when it ends, in the dtype of `total`."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FloatAccumulator(Accumulator):
    """Sums in a narrow floating-point format: after every addition the sum is rounded to it.

    The product comes in float32 (of operands of at most 12 digits it is exact), is added in
    float32, and the sum is rounded once to `format`.

    Attributes:
      format: The format of the sum, or its name.
      length: Products in a chain, after which the sum is added to a float32 one and starts again
        at zero. None sums everything in one chain.
      rounding: Which neighbour the sum rounds to; not stochastic.

    References:
      Promotion of partial sums: Wang et al. 2018 (arXiv 1812.08011), chunks of 64; DeepSeek-V3
      (arXiv 2412.19437), intervals of 128.
    """

    format: Any
    length: int | None = dataclasses.field(default=None, metadata={"static": True})
    rounding: roundings.Rounding = dataclasses.field(
        default=roundings.NearestEven(), kw_only=True, metadata={"static": True}
    )

    def __post_init__(self):
        if isinstance(self.format, str):
            object.__setattr__(self, "format", formats.parse(self.format))
        _check_length(self)
        if isinstance(self.rounding, roundings.Rounding) and self.rounding.stochastic:
            raise ValueError(
                f"`FloatAccumulator.rounding` must draw no noise, but {self.rounding!r} came. "
                "Give for instance `NearestEven()` or `TowardZero()`."
            )

    def add(self, total: Array, product: Array) -> Array:
        """The float32 sum, rounded to the format."""
        return casting.on_format(total + product, self.format, self.rounding)

    def close(self, total: Array) -> Array:
        """The sum as it is."""
        return total


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class IntegerAccumulator(Accumulator):
    """Sums integer codes in an integer of `bits` bits; scales multiply the sum.

    The sums of chains are converted to float32 and added there: a chain of int32 that spills into
    float32 is `IntegerAccumulator(32, length=n, overflow="wrap")`.

    Attributes:
      bits: Width of the sum in two's complement, 2 to 32.
      length: Products in a chain; None sums everything in one.
      overflow: "saturate" keeps the sum within `+-(2**(bits - 1) - 1)`; "wrap" is arithmetic
        modulo `2**bits`.
      at_end: Whether the sum of a chain overflows when the chain ends, and is kept in 32 bits
        until then. Wrapping gives the same either way.
    """

    bits: int
    length: int | None = None
    overflow: Overflow = "saturate"
    at_end: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self):
        if not isinstance(self.bits, int) or not 2 <= self.bits <= 32:
            raise ValueError(
                f"`IntegerAccumulator` was asked for bits={self.bits!r}. Give 2 to 32."
            )
        if self.overflow not in ("saturate", "wrap"):
            raise ValueError(
                f"`IntegerAccumulator` was asked for overflow={self.overflow!r}. "
                "Choose 'saturate' or 'wrap'."
            )
        _check_length(self)

    @property
    def in_one_piece(self) -> bool:
        """Whether the sum of a chain does not depend on the order of its products."""
        return self.at_end or self.overflow == "wrap"

    def add(self, total: Array, product: Array) -> Array:
        """The int32 sum; kept within the width unless that waits for the end."""
        exact = total + product
        if self.in_one_piece:
            return exact
        if self.bits == 32:
            # Of two numbers of one sign the sum must have it too, or it has wrapped.
            wrapped = ((total ^ exact) & (product ^ exact)) < 0
            exact = jnp.where(wrapped, jnp.where(total < 0, -self.limit, self.limit), exact)
        return self._saturated(exact)

    def close(self, total: Array) -> Array:
        """The int32 sum within the width."""
        if self.overflow == "saturate":
            return self._saturated(total)
        unused = 32 - self.bits
        return (total << unused) >> unused

    @property
    def limit(self) -> int:
        """The largest sum."""
        return (1 << (self.bits - 1)) - 1

    def _saturated(self, total: Array) -> Array:
        return jnp.clip(total, -self.limit, self.limit)

    def safe_length(self, lhs: Format, rhs: Format) -> int:
        """The most products of codes of two formats that can never leave the width."""
        largest = [int(max(abs(f.values()))) for f in (lhs, rhs)]
        return self.limit // (largest[0] * largest[1])


def _check_length(accumulator: Any) -> None:
    length = accumulator.length
    if length is not None and (not isinstance(length, int) or length < 1):
        raise ValueError(
            f"`{type(accumulator).__name__}` was asked for length={length!r}. Give the number of "
            "products in a chain, or None for all of them."
        )


def overflows(accumulator: IntegerAccumulator, lhs: Array, rhs: Array) -> Array:
    """Which sums of a product of integers leave the accumulator's width on their way.

    Args:
      accumulator: The integer; where it overflows `at_end`, only whole chains count.
      lhs: (m, k) integer codes.
      rhs: (k, n) integer codes, of at most 16 bits as `lhs`.

    Returns:
      (m, n) booleans.
    """
    k = lhs.shape[1]
    length = k if accumulator.length is None else min(accumulator.length, k)
    products = lhs.astype(jnp.int32)[:, :, None] * rhs.astype(jnp.int32)[None]
    products = jnp.pad(products, ((0, 0), (0, -k % max(length, 1)), (0, 0)))
    products = products.reshape(lhs.shape[0], -1, max(length, 1), rhs.shape[1])
    # Two halves of 16 bits each sum exactly; the upper one takes the carry of the lower.
    low = jnp.cumsum(products & 0xFFFF, axis=2)
    high = jnp.cumsum(products >> 16, axis=2) + (low >> 16)
    low = low & 0xFFFF
    top = accumulator.limit
    bottom = -top if accumulator.overflow == "saturate" else -top - 1
    above = (high > top >> 16) | ((high == top >> 16) & (low > top & 0xFFFF))
    below = (high < bottom >> 16) | ((high == bottom >> 16) & (low < bottom & 0xFFFF))
    out = above | below
    return jnp.any(out[:, :, -1] if accumulator.at_end else jnp.any(out, axis=2), axis=1)
