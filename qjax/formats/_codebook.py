"""Formats that list their values: quantile tables, learned tables, binary and ternary.

The functions that build tables are in `_tables.py`.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qjax._typing import Array
from qjax.formats._base import Format, Grid, register, require_static

# Up to this size a chain of comparisons beats a binary search per element.
CHAIN = 32


@dataclasses.dataclass(frozen=True, repr=False)
class Codebook(Format):
    """A sorted table of values; a code is an index into it.

    Attributes:
      table: The values, ascending. As a pytree they are leaves, so tables may be traced.
      label: A name for printing; it does not enter comparisons.
      bounds: Where rounding to nearest changes its mind, one fewer than values; half-way between
        neighbours by default. Companding formats round half-way in their own domain.
    """

    table: tuple
    label: str = dataclasses.field(default="", kw_only=True, compare=False)
    bounds: tuple | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self):
        values = tuple(float(np.float32(value)) for value in self.table)
        if len(values) < 2 or any(a >= b for a, b in itertools.pairwise(values)):
            raise ValueError(
                f"`Codebook` was asked for a table of {len(values)} values that do not ascend. "
                "Give at least two different values, sorted."
            )
        object.__setattr__(self, "table", values)
        if self.bounds is not None and len(self.bounds) != len(values) - 1:
            raise ValueError(
                f"`Codebook` was asked for {len(self.bounds)} bounds between {len(values)} values. "
                "Give one bound between each two neighbours."
            )

    @property
    def width(self) -> int:
        """Bits of one code."""
        return max(1, (len(self.table) - 1).bit_length())

    @property
    def grid(self) -> Grid:
        """Not a binary grid: raises TypeError."""
        raise TypeError(
            f"`grid` was asked of the table {self.label or 'of a Codebook'}, which is not evenly "
            "spaced in any binade. Power-of-two scale rules need `max_exponent` only."
        )

    @property
    def name(self) -> str:
        """The label, or the table written out."""
        return self.label or f"codebook{list(self.table)}"

    @property
    def max(self) -> Any:
        """The largest magnitude, to which a scale takes the bound of a tile."""
        if self.static:
            return max(abs(self.table[0]), abs(self.table[-1]))
        return jnp.maximum(jnp.abs(self.table[0]), jnp.abs(self.table[-1]))

    @property
    def min(self) -> Any:
        """The first entry."""
        return self.table[0]

    @property
    def max_pattern(self) -> Any:
        """The float32 pattern of the largest magnitude."""
        if self.static:
            return int(np.float32(self.max).view(np.int32))
        return jax.lax.bitcast_convert_type(jnp.asarray(self.max, jnp.float32), jnp.int32)

    def midpoints(self) -> tuple:
        """Returns the bounds between neighbours."""
        if self.bounds is not None:
            return self.bounds
        return tuple((a + b) * 0.5 for a, b in itertools.pairwise(self.table))

    def values(self) -> np.ndarray:
        """Returns the table as float64."""
        require_static(self, "values")
        return np.asarray(self.table, np.float64)

    def encode(self, values: Array) -> Array:
        """Returns the indices of the entries nearest to `values`; NaN becomes 0."""
        return self.nearest(values).astype(self.code_dtype)

    def nearest(self, values: Array) -> Array:
        """Returns int32 indices of the nearest entries, ties to the even index.

        A table of two sends a tie up, so that the sign of zero is one.
        """
        values = _held(values)
        if len(self.table) > CHAIN:
            bounds = [self._bound(i, values.dtype) for i in range(len(self.table) - 1)]
            after = [jnp.asarray(bound, values.dtype) for bound, _ in bounds]
            # Where a bound belongs to the entry below it, the number after it is the first above.
            first = [b if up else jnp.nextafter(b, jnp.inf) for b, (_, up) in zip(after, bounds)]
            index = jnp.searchsorted(jnp.stack(first), values, side="right", method="scan_unrolled")
            return index.astype(jnp.int32)
        index = jnp.zeros(values.shape, jnp.int32)
        for reached in self._reached(values):
            index += reached.astype(jnp.int32)
        return index

    def _reached(self, values: Array) -> Iterator[Array]:
        """Yields, for each entry but the first, where `values` are nearer to it or a later one."""
        for i in range(len(self.table) - 1):
            bound, up = self._bound(i, values.dtype)
            yield values >= bound if up else values > bound

    def _bound(self, index: int, dtype: Any) -> tuple[Any, bool]:
        """Returns a bound and whether it is itself nearer to the entry above it.

        Half-way between two float32 may lie between two float32: of these the upper one is nearer
        to the entry above, and no float32 is a tie.
        """
        bound, up = self.midpoints()[index], index % 2 == 1 or len(self.table) == 2
        if dtype == jnp.float64 or not isinstance(bound, float):
            return bound, up
        held = float(np.float32(bound))
        return held, up if held == bound else held > bound

    def halves(self, values: Array) -> tuple[Array, Array]:
        """Returns where values are above the bound of their two neighbours, and where on it."""
        values = _held(values)
        beyond, on = jnp.zeros(values.shape, bool), jnp.zeros(values.shape, bool)
        for i, middle in enumerate(self.midpoints()):
            bound, up = self._bound(i, values.dtype)
            tie = values == bound if not isinstance(bound, float) or bound == middle else False
            above = (values >= bound if up else values > bound) & ~jnp.asarray(tie)
            inside = (values >= self.table[i]) & (values < self.table[i + 1])
            beyond, on = beyond | (inside & above), on | (inside & tie)
        return beyond, on

    def rounded(self, values: Array) -> Array:
        """Returns the float32 entries nearest to `values`, as `decode(nearest(values))` does."""
        if len(self.table) > CHAIN:
            return self.decode(self.nearest(values))
        values = _held(values)
        result = jnp.full(values.shape, self.table[0], jnp.float32)
        for entry, reached in zip(self.table[1:], self._reached(values)):
            result = jnp.where(reached, entry, result)
        return result

    def decode(self, codes: Array) -> Array:
        """Returns the float32 entries at `codes`."""
        index = codes.astype(jnp.int32)
        if len(self.table) > CHAIN:
            table = jnp.stack([jnp.float32(value) for value in self.table])
            return jnp.take(table, index, mode="clip")
        result = jnp.full(codes.shape, self.table[0], jnp.float32)
        for i, value in enumerate(self.table[1:]):
            result = jnp.where(index > i, value, result)
        return result

    def __repr__(self) -> str:
        label = f", label={self.label!r}" if self.label else ""
        bounds = f", bounds={self.bounds!r}" if self.bounds is not None else ""
        return f"Codebook({self.table!r}{label}{bounds})"


def _held(values: Array) -> Array:
    """Returns values as they are compared: float64 as they come, others as float32."""
    return values if values.dtype == jnp.float64 else values.astype(jnp.float32)


register(Codebook, ("table", "bounds"))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class FourthRoots(Format):
    """The fourth roots of unity {1, i, -1, -i} in two bits, for complex arrays.

    A number goes to the root nearest in angle. Scales are separate for real and imaginary parts
    in the published method; here the magnitude is one.

    References:
      iFairy: the first 2-bit complex language model, arXiv:2508.05571.
    """

    @property
    def width(self) -> int:
        """Two."""
        return 2

    @property
    def grid(self) -> Grid:
        """Not a binary grid: raises TypeError."""
        raise TypeError("`grid` was asked of the fourth roots of unity, which are complex.")

    @property
    def name(self) -> str:
        """`roots4`."""
        return "roots4"

    @property
    def max(self) -> float:
        """One."""
        return 1.0

    def values(self) -> np.ndarray:
        """Returns the roots in the order of their codes, as complex128."""
        return np.array([1, 1j, -1, -1j])

    def encode(self, values: Array) -> Array:
        """Returns the quarter turns nearest to complex `values`: ties to the real axis."""
        real, imag = jnp.real(values), jnp.imag(values)
        horizontal = jnp.where(real < 0, 2, 0)
        vertical = jnp.where(imag < 0, 3, 1)
        return jnp.where(jnp.abs(imag) > jnp.abs(real), vertical, horizontal).astype(jnp.uint8)

    def decode(self, codes: Array) -> Array:
        """Returns the complex64 roots of `codes`."""
        real = jnp.where(codes == 0, 1.0, jnp.where(codes == 2, -1.0, 0.0))
        imag = jnp.where(codes == 1, 1.0, jnp.where(codes == 3, -1.0, 0.0))
        return jax.lax.complex(real, imag)
