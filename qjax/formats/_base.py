"""What every number format can tell about itself, and the grid that the rounding kernel reads.

A format says *which numbers exist* and which bit pattern stands for each. It does not round
(`qjax.casting` does) and knows no scale (`qjax.qtypes` does).
"""

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qjax._typing import Array
from qjax.formats._patterns import STEP, value_of


@dataclasses.dataclass(frozen=True)
class Grid:
    """The numbers of a format as the rounding kernel sees them.

    Magnitudes are *extended bit patterns*: the int32 `((exponent + 127) << 23) + fraction`, which
    is a float32's own pattern where that is normal and simply continues below it, so that
    magnitudes compare, shift and carry as integers. Every number may be a Python int, a traced
    scalar or an array that broadcasts against the values.

    Attributes:
      mantissa_bits: Stored significand bits of a normal number.
      lowest: Extended pattern of the power of two below which the spacing stops shrinking.
      limit: Extended pattern of the largest magnitude.
      negative_limit: The same for negative values; None where the grid is symmetric.
      floor: Extended pattern of the smallest magnitude of a grid without a zero, else None.
      flush: Whether magnitudes below `lowest` are only zero (no subnormals).
      uniform: Whether all values are equally spaced.
      signed: Whether negative values exist.
      negative_zero: Whether -0 differs from 0.
      even_codes: Whether there may be no digits after the first, so that all magnitudes are odd
        multiples of their spacing and it is codes that are even or odd.
      overflow: float32 pattern of what lies beyond the limit; None saturates.
    """

    mantissa_bits: Any
    lowest: Any
    limit: Any
    negative_limit: Any = None
    floor: Any = None
    flush: bool = False
    uniform: bool = False
    signed: bool = True
    negative_zero: bool = True
    even_codes: bool = False
    overflow: int | None = None

    def shifted(self, exponent: Any) -> "Grid":
        """Returns the grid of `value * 2**exponent` (an integer, or integers per tile)."""
        step = exponent * STEP

        def move(bits: Any) -> Any:
            return None if bits is None else bits + step

        return dataclasses.replace(
            self,
            lowest=move(self.lowest),
            limit=move(self.limit),
            negative_limit=move(self.negative_limit),
            floor=move(self.floor),
        )


@dataclasses.dataclass(frozen=True)
class Format(abc.ABC):
    """A finite set of numbers and their codes. Formats are pytrees: their numbers are leaves."""

    @property
    def static(self) -> bool:
        """Whether the numbers of this format are known while tracing."""
        return all(isinstance(leaf, int | float) for leaf in jax.tree.leaves(self))

    @property
    @abc.abstractmethod
    def grid(self) -> Grid:
        """The grid that `qjax.casting` rounds to."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """The name that `formats.parse` reads back. Needs static bits."""

    @property
    @abc.abstractmethod
    def width(self) -> Any:
        """Bits of one code."""

    @property
    def tile_bits(self) -> int:
        """Bits that a tile stores beside its codes and scale; none in most formats."""
        return 0

    @property
    def dtype(self) -> Any:
        """The NumPy or ml_dtypes dtype with the same codes, or None."""
        return None

    @property
    def code_dtype(self) -> Any:
        """The unsigned (signed for integers) NumPy dtype that holds one code."""
        return np.uint8 if self.width <= 8 else np.uint16 if self.width <= 16 else np.uint32

    @property
    def storage(self) -> Any:
        """The dtype that `store` returns: the format's own where it fills whole bytes."""
        return self.code_dtype

    def store(self, values: Array) -> Array:
        """Returns the codes of `values` on the grid, as an array of dtype `storage`."""
        return _retyped(self.encode(values), self.storage)

    def load(self, stored: Array) -> Array:
        """Returns the float32 values of what `store` returned."""
        return self.decode(_retyped(stored, self.code_dtype))

    @property
    def max(self) -> Any:
        """The largest value: a float, or a traced float32 where the bits are traced."""
        return value_of(self.grid.limit)

    @property
    def min(self) -> Any:
        """The smallest (most negative) value, as `max` is given."""
        grid = self.grid
        if not grid.signed:
            return 0.0 if grid.floor is None else value_of(grid.floor)
        return -value_of(grid.limit if grid.negative_limit is None else grid.negative_limit)

    @property
    def max_exponent(self) -> Any:
        """The exponent of the largest value, `floor(log2(max))`."""
        return (self.max_pattern >> 23) - 127

    @property
    def max_pattern(self) -> Any:
        """The extended pattern of the largest value."""
        return self.grid.limit

    @abc.abstractmethod
    def encode(self, values: Array) -> Array:
        """Returns the codes of float32 `values` that are on the grid."""

    @abc.abstractmethod
    def decode(self, codes: Array) -> Array:
        """Returns the float32 values of `codes`."""

    def values(self) -> np.ndarray:
        """Returns all finite values, sorted, each once, as float64; for at most 16 bits."""
        require_static(self, "values")
        if self.width > 16:
            raise ValueError(
                f"`values` was asked to list the numbers of {self.name}, "
                f"which has {self.width}-bit codes. Ask it of formats of at most 16 bits."
            )
        codes = np.arange(1 << self.width, dtype=np.uint32).astype(f"uint{8 * self.code_bytes}")
        with jax.ensure_compile_time_eval():  # also while something else is traced
            decoded = self.decode(jnp.asarray(codes).astype(self.code_dtype))
            values = np.asarray(decoded, np.float64)
        return np.unique(values[np.isfinite(values)]) + 0.0  # -0 and 0 are one number

    @property
    def code_bytes(self) -> int:
        return np.dtype(self.code_dtype).itemsize


def _retyped(array: Array, dtype: Any) -> Array:
    """Returns the same bits as `dtype`, of the same width."""
    return array if array.dtype == dtype else jax.lax.bitcast_convert_type(array, dtype)


def require_static(format: Format, verb: str) -> None:
    """Raises TypeError where the bits of `format` are traced: codes need known widths."""
    if not format.static:
        raise TypeError(
            f"`{verb}` was asked of a {type(format).__name__} format whose bits are traced. "
            "Codes need bits that are Python ints: close over the format, or use `cast`, "
            "which works with traced bits."
        )


def check_bits(format: Any, names: tuple[str, ...]) -> None:
    """Makes NumPy integers Python ints, and raises TypeError where a number is not whole."""
    for name in names:
        value = getattr(format, name)
        if isinstance(value, np.integer):
            object.__setattr__(format, name, int(value))
        elif value is not None and not isinstance(value, int):
            dtype = getattr(value, "dtype", None)
            if dtype is None or not jnp.issubdtype(dtype, jnp.integer):
                raise TypeError(
                    f"`{type(format).__name__}` was given {name}={value}, which is not an integer. "
                    "Bits are counted as Python ints or integer arrays: round learned widths with "
                    "`jnp.round(bits).astype(jnp.int32)`."
                )


def fields_equal_defaults(format: Any, hidden: dict[str, Any]) -> str:
    """Returns the arguments of a `repr` that differ from `hidden` defaults."""
    parts = []
    for field in dataclasses.fields(format):
        value = getattr(format, field.name)
        if field.name in hidden and value == hidden[field.name]:
            continue
        text = repr(value)
        parts.append(f"{field.name}={text}" if field.kw_only else text)
    return ", ".join(parts)


def register(cls: type, numbers: tuple[str, ...]) -> type:
    """Registers a format class as a pytree whose `numbers` are leaves and the rest metadata."""
    choices = tuple(f.name for f in dataclasses.fields(cls) if f.name not in numbers)

    def flatten(format: Any) -> tuple[tuple, tuple]:
        return (
            tuple(getattr(format, name) for name in numbers),
            tuple(getattr(format, name) for name in choices),
        )

    def unflatten(metadata: tuple, leaves: tuple) -> Any:
        # Leaves may be tracers, batches or placeholders: the constructor must not check them.
        format = object.__new__(cls)
        for name, value in zip(numbers + choices, tuple(leaves) + tuple(metadata)):
            object.__setattr__(format, name, value)
        return format

    jax.tree_util.register_pytree_node(cls, flatten, unflatten)
    return cls
