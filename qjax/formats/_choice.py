"""Several tables, of which each tile uses the one that suits it best.

A code is an index into a table, with the number of the table in the bits above it. Packed and
counted, these bits are stored once per tile. Which table suits is decided by the Quantizer.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qjax._typing import Array
from qjax.formats._base import Format, Grid
from qjax.formats._codebook import Codebook


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Choice(Format):
    """One of several tables per tile: the one with the least squared error, the first of equals.

    Attributes:
      tables: The tables, each of at most `2**width` values.
      fitted: Whether a scale takes the bound of a tile to the largest magnitude of its own table;
        otherwise to that of all tables, so that a table may lie below the others.
      label: A name for printing; it does not enter comparisons.
    """

    tables: tuple[Codebook, ...]
    fitted: bool = dataclasses.field(default=False, kw_only=True)
    label: str = dataclasses.field(default="", kw_only=True, compare=False)

    def __post_init__(self):
        if len(self.tables) < 2:
            raise ValueError(
                f"`Choice` was asked for {len(self.tables)} tables. Give at least two; a single "
                "one is a format by itself."
            )

    @property
    def width(self) -> int:
        """Bits of one index."""
        return max(table.width for table in self.tables)

    @property
    def tile_bits(self) -> int:
        """Bits of the choice, once per tile."""
        return (len(self.tables) - 1).bit_length()

    @property
    def code_dtype(self) -> Any:
        """The unsigned dtype that holds an index and the choice."""
        return np.uint8 if self.width + self.tile_bits <= 8 else np.uint16

    @property
    def name(self) -> str:
        """The label, or the tables written out."""
        return self.label or repr(self)

    @property
    def grid(self) -> Grid:
        """Not a binary grid: raises TypeError."""
        raise TypeError(
            f"`grid` was asked of {self.label or 'a Choice'}, whose tiles choose among tables. "
            "Quantize with a type that has tiles and scales."
        )

    @property
    def max(self) -> float:
        """The largest magnitude of all tables."""
        return max(table.max for table in self.tables)

    @property
    def max_pattern(self) -> int:
        """The float32 pattern of the largest magnitude."""
        return max(table.max_pattern for table in self.tables)

    def values(self) -> np.ndarray:
        """Returns the values of all tables, sorted, each once, as float64."""
        return np.unique(np.concatenate([table.values() for table in self.tables])) + 0.0

    def encode(self, values: Array) -> Array:
        """Raises TypeError: a value has a code in every table."""
        raise TypeError(
            f"`encode` was asked of {self.label or 'a Choice'}, where a value has a code in every "
            "table. `qjax.encode` with a type that has tiles chooses one per tile."
        )

    def join(self, index: Array, choice: Array) -> Array:
        """Returns codes of indices and the choices of their tiles."""
        whole = (choice.astype(jnp.int32) << self.width) | index.astype(jnp.int32)
        return whole.astype(self.code_dtype)

    def part(self, codes: Array) -> tuple[Array, Array]:
        """Returns the indices and the choices of codes, both int32."""
        whole = codes.astype(jnp.int32)
        return whole & ((1 << self.width) - 1), whole >> self.width

    def decode(self, codes: Array) -> Array:
        """Returns the float32 values of `codes`."""
        index, choice = self.part(codes)
        result = self.tables[0].decode(index)
        for i, table in enumerate(self.tables[1:], 1):
            result = jnp.where(choice == i, table.decode(index), result)
        return result


def bitmod(bits: int) -> Choice:
    """Returns a minifloat of 3 or 4 bits whose code of -0 is a special value that a tile chooses.

    The choices are a value within the range, of either sign, and one beyond it: 3 or 6 beside
    `{0, 1, 2, 4}`, and 5 or 8 beside `{0, .5, 1, 1.5, 2, 3, 4, 6}`. A scale takes a tile's bound to
    the largest magnitude of its own table. Ties go to the even index (the published code: down).

    References:
      Chen et al., "BitMoD", HPCA 2025, arXiv:2411.11745.
    """
    if bits not in (3, 4):
        raise ValueError(f"`bitmod` was asked for bits={bits}. Give 3 or 4.")
    sizes = (1.0, 2.0, 4.0) if bits == 3 else (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
    specials = (3.0, 6.0) if bits == 3 else (5.0, 8.0)
    base = (*(-size for size in sizes), 0.0, *sizes)
    signed = [sign * special for special in specials for sign in (1, -1)]
    tables = tuple(Codebook(tuple(sorted({*base, special}))) for special in signed)
    return Choice(tables, fitted=True, label=f"bitmod{bits}")
