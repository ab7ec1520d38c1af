"""Binary floating-point formats: any exponent and mantissa width, every family of specials.

Not here: exponent-only scale formats (`_power.py`) and integers (`_integer.py`).
"""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
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
from qjax.formats._patterns import INFINITY, NAN, ONE, SIGN, STEP, compressed, extended, wrapped

# family: (codes of the top binade that are not finite, is the whole top binade lost, -0 exists)
FAMILIES = {
    "ieee": (0, True, True),
    "fn": (1, False, True),
    "finite": (0, False, True),
    "fnuz": (0, False, False),
    "inuz": (1, False, False),
}


NUMBERS = ("exponent_bits", "mantissa_bits", "bias")


@dataclasses.dataclass(frozen=True, repr=False)
class Float(Format):
    """A binary floating-point format.

    Attributes:
      exponent_bits: Width of the exponent field, 0 to 8.
      mantissa_bits: Width of the stored significand, 0 to 23, without the implicit bit.
      family: Which codes are not finite. "ieee" gives the top binade to infinity and NaN; "fn"
        gives up only its last code, for NaN (`float8_e4m3fn`); "finite" has neither (OCP MX
        elements); "fnuz" writes NaN where -0 would be; "inuz" (IEEE P3109) does so too and gives
        up its last code for infinity.
      bias: Exponent bias; `2**(exponent_bits - 1) - 1` by default, one more for fnuz and inuz.
      signed: Whether there is a sign bit.
      subnormals: Whether numbers below the smallest normal exist. Without them a magnitude below
        it rounds to zero or to the smallest normal.
      saturate: Whether what rounds beyond the largest value becomes that value; otherwise it
        becomes infinity or, in families without one, NaN.

    References:
      OCP Microscaling Formats v1.0, section 5.3; IEEE P3109 interim report.
    """

    exponent_bits: Any
    mantissa_bits: Any
    family: str = dataclasses.field(default="ieee", kw_only=True)
    bias: Any = dataclasses.field(default=None, kw_only=True)
    signed: bool = dataclasses.field(default=True, kw_only=True)
    subnormals: bool = dataclasses.field(default=True, kw_only=True)
    saturate: bool = dataclasses.field(default=True, kw_only=True)

    def __post_init__(self):
        check_bits(self, NUMBERS)
        if self.family not in FAMILIES:
            raise ValueError(
                f"`Float` was asked for family={self.family!r}. Choose one of {list(FAMILIES)}."
            )
        if isinstance(self.exponent_bits, int) and not 0 <= self.exponent_bits <= 8:
            raise ValueError(
                f"`Float` takes 0 to 8 exponent bits, but exponent_bits={self.exponent_bits}. "
                "float32 arithmetic holds no wider range."
            )
        if isinstance(self.mantissa_bits, int) and not 0 <= self.mantissa_bits <= 23:
            raise ValueError(
                f"`Float` takes 0 to 23 mantissa bits, but mantissa_bits={self.mantissa_bits}. "
                "float32 arithmetic holds no more digits."
            )
        if not self.saturate and self.family == "finite":
            raise ValueError(
                "`Float` was asked for saturate=False in the finite family, which has no code for "
                "what overflows. Choose another family, or let it saturate."
            )
        if self.bias is None:
            object.__setattr__(self, "bias", self._default_bias())
        if not self.static:
            return
        least = 1 if self.subnormals else 1 << self.mantissa_bits
        if self._max_code < least or self.grid.limit >= INFINITY:
            held = "has no number but zero" if self._max_code < least else "ends beyond 2**128"
            raise ValueError(
                f"`Float` was asked for {self!r}, which {held}. Give another width, bias or "
                "family; float32 arithmetic holds no wider range."
            )

    def _default_bias(self) -> Any:
        return ((1 << self.exponent_bits) >> 1) - (0 if self.family in ("fnuz", "inuz") else 1)

    @property
    def width(self) -> Any:
        """Bits of one code."""
        return int(self.signed) + self.exponent_bits + self.mantissa_bits

    bits = width

    @property
    def min_exponent(self) -> Any:
        """The exponent of the smallest normal number, `1 - bias`."""
        return 1 - self.bias

    @property
    def smallest_normal(self) -> float:
        """The smallest positive normal number."""
        return float(2.0**self.min_exponent)

    @property
    def smallest_subnormal(self) -> float:
        """The smallest positive number (the smallest normal one without subnormals)."""
        return float(2.0 ** (self.min_exponent - (self.mantissa_bits if self.subnormals else 0)))

    @property
    def grid(self) -> Grid:
        """The grid of this format; integer arithmetic only, so that bits may be traced."""
        missing, top_lost, negative_zero = FAMILIES[self.family]
        top = (1 << self.exponent_bits) - 1 - int(top_lost) - self.bias
        # Where even the top binade is subnormal its spacing is that of the binade above it.
        subnormal = ((top - self.min_exponent) >> 31) & 1
        limit = ((top + 1 + 127) << 23) - ((1 + missing) << (23 - self.mantissa_bits + subnormal))
        return Grid(
            mantissa_bits=self.mantissa_bits,
            lowest=(self.min_exponent + 127) << 23,
            limit=limit,
            flush=not self.subnormals,
            signed=self.signed,
            negative_zero=negative_zero and self.signed,
            even_codes=not (isinstance(self.mantissa_bits, int) and self.mantissa_bits > 0),
            overflow=self._overflow,
        )

    @property
    def _overflow(self) -> int | None:
        if self.saturate:
            return None
        return INFINITY if self.family in ("ieee", "inuz") else NAN

    @property
    def name(self) -> str:
        """`e4m3fn`, with `bN` where the bias is not the default and `u` where unsigned."""
        require_static(self, "name")
        base = f"{'' if self.signed else 'u'}e{self.exponent_bits}m{self.mantissa_bits}"
        bias = f"b{self.bias}" if self.bias != self._default_bias() else ""
        suffix = {"ieee": "", "finite": "finite"}.get(self.family, self.family)
        # ml_dtypes spells the OCP elements, which have no NaN to give up, `fn` as well.
        if self.family == "finite" and (self.exponent_bits, self.mantissa_bits) in OCP_FINITE:
            suffix = "fn"
        name = (
            base
            + bias
            + suffix
            + ("" if self.subnormals else "_ftz")
            + ("" if self.saturate else "_ovf")
        )
        return ALIASES.get(name, name)

    @property
    def dtype(self) -> Any:
        """The dtype of NumPy or ml_dtypes with the same codes, or None."""
        if not self.static:
            return None
        return _dtypes().get(dataclasses.replace(self, saturate=True))

    @property
    def storage(self) -> Any:
        """The dtype that `store` returns: `dtype` where there is one of whole bytes."""
        whole = self.dtype is not None and self.width % 8 == 0
        return self.dtype if whole else self.code_dtype

    def encode(self, values: Array) -> Array:
        """Returns the codes of float32 `values` on the grid.

        NaN becomes the NaN of the format; where there is none it becomes negative zero, as in
        ml_dtypes. Infinities become infinity where there is one, else NaN's code.
        """
        require_static(self, "encode")
        m, grid = self.mantissa_bits, self.grid
        bits = lax.bitcast_convert_type(values.astype(jnp.float32), jnp.int32)
        magnitude = extended(bits & 0x7FFFFFFF)
        normal = (magnitude >> (23 - m)) - ((self.min_exponent + 126) << m)
        # value / 2**(min_exponent - m) is a small integer below the smallest normal.
        units = magnitude - grid.lowest + (m << 23) + ONE
        small = lax.bitcast_convert_type(jnp.clip(units, STEP, 254 << 23), jnp.float32)
        small = jnp.where(units < ONE - STEP, 0, jnp.minimum(small, 2.0**24)).astype(jnp.int32)
        code = jnp.where(magnitude < grid.lowest, small, normal)
        code = jnp.where(bits & 0x7FFFFFFF >= INFINITY, self._special(bits), code)
        if self.signed:
            sign = (bits < 0) & (grid.negative_zero | (code != 0))
            keep = jnp.isnan(values) if not grid.negative_zero else jnp.zeros_like(sign)
            code = jnp.where(sign & ~keep, code | wrapped(1 << (self.width - 1)), code)
        return code.astype(self.code_dtype)

    def _special(self, bits: Array) -> Array:
        """Codes (without sign) of non-finite values."""
        ones = (1 << (self.exponent_bits + self.mantissa_bits)) - 1
        sign = wrapped(1 << (self.exponent_bits + self.mantissa_bits)) if self.signed else 0
        infinity = ones - ((1 << self.mantissa_bits) - 1)
        quiet = infinity | ((1 << self.mantissa_bits) >> 1)
        inf, nan = {
            "ieee": (infinity, quiet),
            "fn": (ones, ones),
            "finite": (ones, sign),
            "fnuz": (sign, sign),
            "inuz": (ones, sign),
        }[self.family]
        return jnp.where(bits & 0x7FFFFFFF > INFINITY, nan, inf)

    def decode(self, codes: Array) -> Array:
        """Returns the float32 values of `codes`, specials included."""
        require_static(self, "decode")
        m, grid = self.mantissa_bits, self.grid
        code = codes.astype(jnp.int32) & wrapped((1 << self.width) - 1)
        magnitude = code & ((1 << (self.exponent_bits + m)) - 1)
        bits = (magnitude << (23 - m)) + ((self.min_exponent + 126) << 23)
        fraction = magnitude & ((1 << m) - 1)
        small = fraction.astype(jnp.float32)
        ulp = grid.lowest - (m << 23)
        small = lax.bitcast_convert_type(small, jnp.int32) + (ulp - ONE)
        small = jnp.where(fraction == 0, -(1 << 30), small)
        if not self.subnormals:
            small = jnp.full_like(small, -(1 << 30))
        bits = jnp.where(magnitude >> m == 0, small, bits)
        over = magnitude > self._max_code
        bits = compressed(bits)
        ones = (1 << (self.exponent_bits + m)) - 1
        is_inf = over & (
            (magnitude == ones - ((1 << m) - 1)) if self.family == "ieee"
            else (magnitude == ones) & (self.family == "inuz")
        )  # fmt: skip
        bits = jnp.where(over, jnp.where(is_inf, INFINITY, NAN), bits)
        if self.signed:
            negative = code >> (self.width - 1) != 0
            bits = jnp.where(negative, bits | SIGN, bits)
            if not grid.negative_zero:
                bits = jnp.where(negative & (magnitude == 0), NAN, bits)
        return lax.bitcast_convert_type(bits, jnp.float32)

    @property
    def _max_code(self) -> int:
        """The code of the largest finite magnitude."""
        missing, top_lost, _ = FAMILIES[self.family]
        m = self.mantissa_bits
        return (((1 << self.exponent_bits) - int(top_lost)) << m) - 1 - missing

    def __repr__(self) -> str:
        bias = self._default_bias() if self.static else None
        hidden = {
            "family": "ieee",
            "bias": bias,
            "signed": True,
            "subnormals": True,
            "saturate": True,
        }
        return f"Float({fields_equal_defaults(self, hidden)})"


register(Float, NUMBERS)

# Names that the bit widths alone would not give: bare `e4m3` has two readings.
ALIASES = {
    "e4m3": "float8_e4m3",
    "e8m7": "bfloat16",
    "e5m10": "float16",
    "e8m23": "float32",
}
OCP_FINITE = {(2, 1), (2, 3), (3, 2)}


@functools.cache
def _dtypes() -> dict[Float, Any]:
    names = {
        Float(4, 3, family="fn"): ml_dtypes.float8_e4m3fn,
        Float(4, 3): ml_dtypes.float8_e4m3,
        Float(3, 4): ml_dtypes.float8_e3m4,
        Float(5, 2): ml_dtypes.float8_e5m2,
        Float(4, 3, family="fnuz"): ml_dtypes.float8_e4m3fnuz,
        Float(5, 2, family="fnuz"): ml_dtypes.float8_e5m2fnuz,
        Float(4, 3, family="fnuz", bias=11): ml_dtypes.float8_e4m3b11fnuz,
        Float(2, 1, family="finite"): ml_dtypes.float4_e2m1fn,
        Float(2, 3, family="finite"): ml_dtypes.float6_e2m3fn,
        Float(3, 2, family="finite"): ml_dtypes.float6_e3m2fn,
        Float(8, 7): ml_dtypes.bfloat16,
        Float(5, 10): np.float16,
        Float(8, 23): np.float32,
    }
    return {format: np.dtype(dtype) for format, dtype in names.items()}
