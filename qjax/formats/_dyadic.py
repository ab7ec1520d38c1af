"""Dyadic numbers: an integer and a right shift, the multipliers of integer-only arithmetic."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import lax

from qjax._typing import Array
from qjax.formats._base import Format, Grid, register, require_static
from qjax.formats._patterns import compressed, extended


@dataclasses.dataclass(frozen=True)
class Dyadic(Format):
    """Numbers `b / 2**c`: `b` of `bits` bits and `c` of `shift_bits` bits, both unsigned.

    A product with one is an integer multiplication and a shift. A number is stored with the
    largest shift that its multiplier leaves room for. There is no NaN: it is stored as zero.

    Attributes:
      bits: Bits of the multiplier, 1 to 24, the digits of a float32. (The published ones have 31
        or 32, from quotients in float64.)
      shift_bits: Bits of the shift, 1 to 7.

    References:
      Yao et al., "HAWQ-V3: dyadic neural network quantization", ICML 2021, arXiv:2011.10680.
    """

    bits: Any
    shift_bits: Any

    def __post_init__(self):
        for name, most in (("bits", 24), ("shift_bits", 7)):
            value = getattr(self, name)
            if isinstance(value, int) and not 1 <= value <= most:
                raise ValueError(f"`Dyadic` was asked for {name}={value}. Give 1 to {most}.")

    @property
    def width(self) -> Any:
        """Bits of one code."""
        return self.bits + self.shift_bits

    @property
    def most_shift(self) -> Any:
        """The largest shift."""
        return (1 << self.shift_bits) - 1

    @property
    def grid(self) -> Grid:
        """The grid of this format."""
        return Grid(
            mantissa_bits=self.bits - 1,
            lowest=(self.bits - 1 - self.most_shift + 127) << 23,
            limit=((self.bits + 127) << 23) - (1 << (24 - self.bits)),
            signed=False,
            negative_zero=False,
        )

    @property
    def name(self) -> str:
        """`dyadicB_C`."""
        require_static(self, "name")
        return f"dyadic{self.bits}_{self.shift_bits}"

    def encode(self, values: Array) -> Array:
        """Returns the codes of float32 `values` on the grid: the shift above the multiplier."""
        require_static(self, "encode")
        size = lax.bitcast_convert_type(values.astype(jnp.float32), jnp.int32)
        size = jnp.where(jnp.isnan(values), 0, size)
        pattern = extended(size)
        shift = jnp.clip(self.bits - 1 - ((pattern >> 23) - 127), 0, self.most_shift)
        whole = lax.bitcast_convert_type(jnp.maximum(pattern + (shift << 23), 0), jnp.float32)
        code = jnp.where(size == 0, 0, whole).astype(jnp.int32) | (shift << self.bits)
        return code.astype(self.code_dtype)

    def decode(self, codes: Array) -> Array:
        """Returns the float32 values of `codes`."""
        require_static(self, "decode")
        code = codes.astype(jnp.int32)
        multiplier = code & ((1 << self.bits) - 1)
        pattern = lax.bitcast_convert_type(multiplier.astype(jnp.float32), jnp.int32)
        small = compressed(pattern - ((code >> self.bits) << 23))
        return lax.bitcast_convert_type(jnp.where(multiplier == 0, 0, small), jnp.float32)


register(Dyadic, ("bits", "shift_bits"))
