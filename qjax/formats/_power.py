"""Powers of two: exponent-only formats, as E8M0 scales or, with a sign, as elements."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import lax

from qjax._typing import Array
from qjax.formats._base import (
    Format,
    Grid,
    check_bits,
    fields_equal_defaults,
    register,
    require_static,
)
from qjax.formats._patterns import NAN, ONE, SIGN, compressed, extended


@dataclasses.dataclass(frozen=True, repr=False)
class PowerOfTwo(Format):
    """Powers of two, `2**(code - bias)`, with or without a sign, a zero and a NaN.

    Attributes:
      exponent_bits: Width of the exponent field, 0 to 8. Without one, sign, zero and NaN there is a
        single number, `2**-bias`, which takes no bits.
      bias: `2**(exponent_bits - 1) - 1` by default.
      signed: Whether there is a sign bit.
      zero: Whether code 0 is zero rather than the smallest power.
      nan: Whether the last code is NaN (as in E8M0).

    References:
      OCP Microscaling Formats v1.0, section 5.4.1 (E8M0).
    """

    exponent_bits: Any
    bias: Any = dataclasses.field(default=None, kw_only=True)
    signed: bool = dataclasses.field(default=False, kw_only=True)
    zero: bool = dataclasses.field(default=False, kw_only=True)
    nan: bool = dataclasses.field(default=True, kw_only=True)

    def __post_init__(self):
        check_bits(self, ("exponent_bits", "bias"))
        least = int(self.signed or self.zero or self.nan)
        if isinstance(self.exponent_bits, int) and not least <= self.exponent_bits <= 8:
            raise ValueError(
                f"`PowerOfTwo` was asked for exponent_bits={self.exponent_bits}. Give {least} to "
                "8: float32 arithmetic holds no wider range."
            )
        if self.bias is None:
            object.__setattr__(self, "bias", self._default_bias())
        if self.static and not self.min_exponent <= self.top_exponent <= 127:
            empty = self.min_exponent > self.top_exponent
            raise ValueError(
                f"`PowerOfTwo` was asked for {self!r}, which "
                f"{'has no power of two' if empty else 'ends beyond 2**127'}. Give another width "
                "or bias, or nan=True; float32 arithmetic holds no wider range."
            )

    def _default_bias(self) -> Any:
        return ((1 << self.exponent_bits) >> 1) - 1

    @property
    def width(self) -> Any:
        """Bits of one code."""
        return int(self.signed) + self.exponent_bits

    @property
    def min_exponent(self) -> Any:
        """The exponent of the smallest power."""
        return int(self.zero) - self.bias

    @property
    def top_exponent(self) -> Any:
        """The exponent of the largest power."""
        return (1 << self.exponent_bits) - 1 - int(self.nan) - self.bias

    @property
    def grid(self) -> Grid:
        """The grid of this format: rounding is to the nearest value, not the nearest exponent."""
        lowest = (self.min_exponent + 127) << 23
        return Grid(
            mantissa_bits=0,
            lowest=lowest,
            limit=(self.top_exponent + 127) << 23,
            floor=None if self.zero else lowest,
            signed=self.signed,
            negative_zero=False,
        )

    @property
    def name(self) -> str:
        """`e8m0` where unsigned with NaN; else `pow2` and the exponent bits, with `z` for zero."""
        require_static(self, "name")
        bias = f"b{self.bias}" if self.bias != self._default_bias() else ""
        if not self.signed and not self.zero and self.nan:
            return f"e{self.exponent_bits}m0{bias}fnu"
        flags = ("s" if self.signed else "") + ("z" if self.zero else "") + "n" * self.nan
        return f"pow2_{self.exponent_bits}{bias}{flags}"

    @property
    def dtype(self) -> Any:
        """float8_e8m0fnu where that has the same codes, else None."""
        return jnp.dtype("float8_e8m0fnu") if self == PowerOfTwo(8) else None

    def encode(self, values: Array) -> Array:
        """Returns the codes of float32 `values` on the grid; NaN needs a format with NaN."""
        require_static(self, "encode")
        bits = lax.bitcast_convert_type(values.astype(jnp.float32), jnp.int32)
        code = (extended(bits & 0x7FFFFFFF) >> 23) - 127 + self.bias
        code = jnp.clip(code, 0, (1 << self.exponent_bits) - 1 - int(self.nan))
        if self.nan:
            code = jnp.where(jnp.isnan(values), (1 << self.exponent_bits) - 1, code)
        if self.signed:
            code = code | jnp.where(bits < 0, 1 << self.exponent_bits, 0)
        return code.astype(self.code_dtype)

    def decode(self, codes: Array) -> Array:
        """Returns the float32 values of `codes`."""
        require_static(self, "decode")
        code = codes.astype(jnp.int32)
        exponent = code & ((1 << self.exponent_bits) - 1)
        bits = compressed(((exponent - self.bias) << 23) + ONE)
        if self.zero:
            bits = jnp.where(exponent == 0, 0, bits)
        if self.nan:
            bits = jnp.where(exponent == (1 << self.exponent_bits) - 1, NAN, bits)
        if self.signed:
            bits = jnp.where(code >> self.exponent_bits != 0, bits | SIGN, bits)
        return lax.bitcast_convert_type(bits, jnp.float32)

    def __repr__(self) -> str:
        bias = self._default_bias() if self.static else None
        hidden = {"signed": False, "zero": False, "nan": True, "bias": bias}
        return f"PowerOfTwo({fields_equal_defaults(self, hidden)})"


register(PowerOfTwo, ("exponent_bits", "bias"))
