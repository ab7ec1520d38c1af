"""Integers and fixed-point numbers: evenly spaced values."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from qjax._typing import Array
from qjax.formats._base import (
    Format,
    Grid,
    check_bits,
    fields_equal_defaults,
    register,
    require_static,
)


@dataclasses.dataclass(frozen=True, repr=False)
class Fixed(Format):
    """Fixed-point numbers: integers times `2**-fraction_bits`.

    Attributes:
      integer_bits: Bits before the binary point, without the sign.
      fraction_bits: Bits after it. Their sum is at most 23, the digits of a float32.
      signed: Whether there is a sign bit (two's complement).
      narrow: Whether the most negative code is left out, so that the range is symmetric. Only
        where signed.
      wrap: Whether what is out of range keeps its last bits, as in hardware that ignores
        overflow; otherwise it saturates. Needs the full range.
    """

    integer_bits: Any
    fraction_bits: Any
    signed: bool = dataclasses.field(default=True, kw_only=True)
    narrow: bool = dataclasses.field(default=True, kw_only=True)
    wrap: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self):
        check_bits(self, ("integer_bits", "fraction_bits"))
        if not self.signed:
            object.__setattr__(self, "narrow", True)  # of no meaning, but compared
        if self.wrap and self.signed and self.narrow:
            raise ValueError(
                "`Fixed` was asked for wrap=True with a symmetric range, which has no code for its "
                "last number. Give narrow=False too."
            )
        if not isinstance(self.integer_bits, int) or not isinstance(self.fraction_bits, int):
            return
        if not 1 <= self.integer_bits + self.fraction_bits <= 23:
            raise ValueError(
                f"`Fixed` was asked for {self.integer_bits} integer and {self.fraction_bits} "
                "fraction bits. Together they number 1 to 23 (float32 holds no more digits)."
            )

    @property
    def width(self) -> Any:
        """Bits of one code."""
        return int(self.signed) + self.integer_bits + self.fraction_bits

    @property
    def grid(self) -> Grid:
        """The grid of this format."""
        digits = self.integer_bits + self.fraction_bits
        lowest = (self.integer_bits + 127) << 23
        return Grid(
            mantissa_bits=digits,
            lowest=lowest,
            # 2**integer_bits less one step, which is twice as fine a step below that power.
            limit=lowest - (1 << (24 - digits)),
            negative_limit=lowest if self.signed and not self.narrow else None,
            uniform=True,
            signed=self.signed,
            negative_zero=False,
        )

    @property
    def step(self) -> Any:
        """The distance between neighbours, `2**-fraction_bits`."""
        return 2.0**-self.fraction_bits

    @property
    def name(self) -> str:
        """`fixedI.F`, with `u` before it where unsigned, `full` or `wrap` after a full range."""
        require_static(self, "name")
        base = f"{'' if self.signed else 'u'}fixed{self.integer_bits}.{self.fraction_bits}"
        full = "full" if self.signed and not self.narrow else ""
        return base + ("wrap" if self.wrap else full)

    @property
    def code_dtype(self) -> Any:
        """The smallest NumPy integer dtype that holds a code."""
        bits = 8 if self.width <= 8 else 16 if self.width <= 16 else 32
        return np.dtype(f"{'int' if self.signed else 'uint'}{bits}")

    @property
    def dtype(self) -> Any:
        """The NumPy dtype with the same codes, or None."""
        exact = self.static and self.width in (8, 16)
        return self.code_dtype if exact else None

    def encode(self, values: Array) -> Array:
        """Returns the integers `values / step`; NaN becomes 0."""
        require_static(self, "encode")
        codes = jnp.where(jnp.isnan(values), 0, values * (1 / self.step))
        return codes.astype(jnp.int32).astype(self.code_dtype)

    def decode(self, codes: Array) -> Array:
        """Returns `codes * step` as float32."""
        require_static(self, "decode")
        return codes.astype(jnp.float32) * jnp.float32(self.step)

    def values(self) -> np.ndarray:
        """Returns all values, sorted, as float64."""
        require_static(self, "values")
        top = 1 << (self.integer_bits + self.fraction_bits)
        low = 0 if not self.signed else -top + int(self.narrow)
        return np.arange(low, top) * self.step

    def __repr__(self) -> str:
        hidden = {"signed": True, "narrow": True, "wrap": False}
        return f"{type(self).__name__}({fields_equal_defaults(self, hidden)})"


register(Fixed, ("integer_bits", "fraction_bits"))


@dataclasses.dataclass(frozen=True, repr=False)
class Int(Format):
    """Integers of `bits` bits.

    Attributes:
      bits: Width of a code, at most 24 signed (23 unsigned).
      signed: Whether negative integers exist (two's complement).
      narrow: Whether `-2**(bits - 1)` is left out, so that the range is symmetric. Only where
        signed.
    """

    bits: Any
    signed: bool = dataclasses.field(default=True, kw_only=True)
    narrow: bool = dataclasses.field(default=True, kw_only=True)

    def __post_init__(self):
        check_bits(self, ("bits",))
        if not self.signed:
            object.__setattr__(self, "narrow", True)  # of no meaning, but compared
        if isinstance(self.bits, int) and not 1 + self.signed <= self.bits <= 23 + self.signed:
            raise ValueError(
                f"`Int` was asked for bits={self.bits}, signed={self.signed}. Give "
                f"{1 + self.signed} to {23 + self.signed}; one-bit codes are `formats.BINARY`."
            )

    @property
    def _fixed(self) -> Fixed:
        digits = self.bits - int(self.signed)
        return Fixed(digits, 0, signed=self.signed, narrow=self.narrow)

    @property
    def width(self) -> Any:
        """Bits of one code."""
        return self.bits

    @property
    def grid(self) -> Grid:
        """The grid of this format."""
        return self._fixed.grid

    @property
    def name(self) -> str:
        """`intK` or `uintK`; `intKfull` where the most negative code is used."""
        require_static(self, "name")
        full = "full" if self.signed and not self.narrow else ""
        return f"{'' if self.signed else 'u'}int{self.bits}{full}"

    @property
    def code_dtype(self) -> Any:
        """The smallest NumPy integer dtype that holds a code."""
        return self._fixed.code_dtype

    @property
    def dtype(self) -> Any:
        """The NumPy dtype with the same codes, or None."""
        return self._fixed.dtype if self.static else None

    def encode(self, values: Array) -> Array:
        """Returns `values` as integers; NaN becomes 0."""
        return self._fixed.encode(values)

    def decode(self, codes: Array) -> Array:
        """Returns `codes` as float32."""
        return self._fixed.decode(codes)

    def values(self) -> np.ndarray:
        """Returns all values, sorted, as float64."""
        return self._fixed.values()

    def __repr__(self) -> str:
        return f"Int({fields_equal_defaults(self, {'signed': True, 'narrow': True})})"


register(Int, ("bits",))
