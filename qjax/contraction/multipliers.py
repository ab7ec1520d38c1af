"""What multiplies two numbers: other products than the exact one.

A multiplier acts on float32 numbers, element by element. What is summed, and in what, is not its
business (see `accumulators`).
"""

import abc
import dataclasses
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import lax

from qjax import casting, formats
from qjax import rounding as roundings
from qjax._typing import Array
from qjax.formats import INFINITY, Float

SIGN = 0x80000000


class Multiplier(abc.ABC):
    """A product of numbers.

    Attributes:
      exact: Whether `product` is the exact product of what `prepare` gives, so that ordinary
        contractions compute it.
    """

    exact: ClassVar[bool] = False

    def __call__(self, x: Array, y: Array) -> Array:
        """The float32 product of two arrays, elementwise with broadcasting."""
        first, second = self.prepare(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))
        return self.product(first, second)

    @abc.abstractmethod
    def prepare(self, x: Array, y: Array) -> tuple[Array, Array]:
        """What is done once to each operand, in float32, before all products."""

    @abc.abstractmethod
    def product(self, first: Array, second: Array) -> Array:
        """The float32 product of prepared operands, elementwise with broadcasting."""

    def flipped(self) -> "Multiplier":
        """The multiplier for operands in the other order."""
        return self


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class LMul(Multiplier):
    """Multiplies by one integer addition of bit patterns.

    With X and Y the patterns of the magnitudes in `format` (m mantissa bits, bias b), the
    product's pattern is `X + Y - (b << m) + 2**(m - l)`: mantissas are added, and a carry
    goes into the exponent by itself. Operands are truncated to the format; a zero or
    subnormal operand gives zero, as does a product below the smallest normal number; a product
    beyond the largest becomes the largest. NaN and infinity follow the rules of the exact product.

    Attributes:
      format: A `Float` with `m` mantissa bits, or its name.
      offset: l, the exponent of the constant `2**-l` that stands for the product of the
        mantissas. None is the published choice: m up to 3 bits, 3 for 4, and 4 for more.

    References:
      Luo and Sun 2024, "Addition is All You Need" (arXiv 2410.00907), equation 2. Its formula
      leaves the carry of the mantissa sum open; the integer addition is what is done here.
    """

    format: Any = Float(8, 23)
    offset: int | None = None

    def __post_init__(self):
        if isinstance(self.format, str):
            object.__setattr__(self, "format", formats.parse(self.format))
        if not isinstance(self.format, Float) or not self.format.static or not self.format.signed:
            raise ValueError(
                f"`LMul.format` must be a signed Float of static bits, but {self.format!r} came. "
                "Give for instance `Float(8, 4)` or 'e4m3fn'."
            )
        if self.offset is not None and not 0 <= self.offset <= 23:
            raise ValueError(f"`LMul` was asked for offset={self.offset!r}. Give 0 to 23, or None.")

    @property
    def constant(self) -> int:
        """The exponent l of the added constant `2**-l`."""
        m = self.format.mantissa_bits
        return (m if m <= 3 else 3 if m == 4 else 4) if self.offset is None else self.offset

    def prepare(self, x: Array, y: Array) -> tuple[Array, Array]:
        """The bit patterns of both operands, truncated; uint32."""
        return self._pattern(x), self._pattern(y)

    def _pattern(self, x: Array) -> Array:
        x = x if self.format.mantissa_bits == 23 else self._truncated(x)
        bits = lax.bitcast_convert_type(x, jnp.uint32)
        normal = (bits & ~jnp.uint32(SIGN)) >= jnp.uint32(self._lowest)
        return jnp.where(normal, bits, bits & jnp.uint32(SIGN))

    def _truncated(self, x: Array) -> Array:
        finite = casting.on_format(x, self.format, roundings.TowardZero())
        return jnp.where(jnp.isinf(x), x, finite)

    @property
    def _lowest(self) -> int:
        """float32 pattern of the smallest normal number."""
        return max(128 - self.format.bias, 1) << 23

    def product(self, first: Array, second: Array) -> Array:
        """The product by integer addition."""
        sizes = [bits & ~jnp.uint32(SIGN) for bits in (first, second)]
        # Both magnitudes and the constant fit 32 bits without a sign.
        added = sizes[0] + sizes[1] + jnp.uint32(1 << (23 - self.constant))
        bias, top = 127 << 23, self.format.max_pattern
        low = (added < jnp.uint32(bias + self._lowest)) | (sizes[0] == 0) | (sizes[1] == 0)
        size = jnp.where(added > jnp.uint32(bias + top), jnp.uint32(top), added - jnp.uint32(bias))
        size = jnp.where(low, jnp.uint32(0), size)
        result = lax.bitcast_convert_type(size | ((first ^ second) & jnp.uint32(SIGN)), jnp.float32)
        plain = [lax.bitcast_convert_type(bits, jnp.float32) for bits in (first, second)]
        special = jnp.maximum(*sizes) >= jnp.uint32(INFINITY)
        return jnp.where(special, plain[0] * plain[1], result)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class ShiftAdd(Multiplier):
    """Multiplies by shifts and additions: one operand becomes a sum of few powers of two.

    Each term is the power of two nearest to what is left of the operand (in ratio: the
    arithmetic midpoint decides, ties to the larger), with its sign. The sum of the shifted
    other operand is exact, and rounded once to float32.

    Attributes:
      terms: Powers of two in the sum, at least 1.
      side: Which operand is the sum: the second ("rhs", as weights are) or the first ("lhs").
    """

    terms: int = 2
    side: Literal["lhs", "rhs"] = "rhs"
    exact: ClassVar[bool] = True

    def __post_init__(self):
        if not isinstance(self.terms, int) or self.terms < 1:
            raise ValueError(
                f"`ShiftAdd` was asked for terms={self.terms!r}. Give a whole number, at least 1."
            )
        if self.side not in ("lhs", "rhs"):
            raise ValueError(f"`ShiftAdd` was asked for side={self.side!r}. Choose 'lhs' or 'rhs'.")

    def prepare(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Both operands, one of them as a sum of powers of two."""
        return (x, self.powers(y)) if self.side == "rhs" else (self.powers(x), y)

    def powers(self, x: Array) -> Array:
        """The sum of at most `terms` signed powers of two nearest to `x`, term by term."""
        total, left = jnp.zeros_like(x), x
        for _ in range(self.terms):
            term = _nearest_power(left)
            total, left = total + term, left - term
        return total

    def product(self, first: Array, second: Array) -> Array:
        """The exact product, rounded once."""
        return first * second

    def flipped(self) -> "ShiftAdd":
        """The multiplier for operands in the other order."""
        return dataclasses.replace(self, side="lhs" if self.side == "rhs" else "rhs")


def _nearest_power(x: Array) -> Array:
    """The power of two nearest to each float32 magnitude, with its sign; zero stays zero."""
    bits = lax.bitcast_convert_type(x, jnp.int32)
    # Half of the fraction's range added to a pattern carries into the exponent from 1.5 on.
    power = (bits + (1 << 22)) & ~((1 << 23) - 1)
    value = lax.bitcast_convert_type(power, jnp.float32)
    return jnp.where(jnp.isfinite(x), value, x)
