"""Codebooks whose tables are still to be filled in: TensorCast's generic ones."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from qjax._typing import Array
from qjax.formats._base import Format, Grid
from qjax.formats._choice import Choice
from qjax.formats._codebook import Codebook
from qjax.formats._float import Float


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Blank(Format):
    """A choice among tables that nobody has written yet: `fill` gives the format to cast with.

    Its bits are known, so that types of it can be counted and compared; its values are not.

    Attributes:
      index_bits: Width of an index into a table.
      choice_bits: Bits of the choice of a table; there are `2**choice_bits` tables.
      compute: The format that the tables' entries are values of.
      label: What tells it from others of these sizes.
    """

    index_bits: int
    choice_bits: int
    compute: Float
    label: str = dataclasses.field(default="", kw_only=True)

    def fill(self, tables: Iterable[Iterable[float]]) -> Choice:
        """Returns the format with these tables, ascending, each of up to `2**index_bits` values.

        Raises:
          ValueError: If they are not as many, too long, or not made of values of `compute`.
        """
        books = tuple(Codebook(tuple(table), label=self.name) for table in tables)
        line = set(self.compute.values().tolist())
        if len(books) != 1 << self.choice_bits:
            raise ValueError(
                f"{self.name} was filled with {len(books)} tables. Give {1 << self.choice_bits}."
            )
        for i, book in enumerate(books):
            strange = [value for value in book.table if value not in line]
            if len(book.table) > 1 << self.index_bits or strange:
                held = f", and {strange[0]:g} is not one of {self.compute.name}" if strange else ""
                raise ValueError(
                    f"Table {i} of {self.name} has {len(book.table)} values{held}. "
                    f"Give at most {1 << self.index_bits}, all of that format."
                )
        return Choice(books, label=self.name)

    @property
    def width(self) -> int:
        """Bits of one index."""
        return self.index_bits

    @property
    def tile_bits(self) -> int:
        """Bits of the choice, once per tile."""
        return self.choice_bits

    @property
    def name(self) -> str:
        """`cb<index bits><choice bits>_<compute>`, and the label."""
        bias = (1 << self.compute.exponent_bits >> 1) - 1
        plain = f"e{self.compute.exponent_bits}m{self.compute.mantissa_bits}"
        family = "" if self.compute.family == "ieee" else self.compute.family
        moved = "" if self.compute.bias == bias else f"b{self.compute.bias}"
        label = f"_{self.label}" if self.label else ""
        return f"cb{self.index_bits}{self.choice_bits}_{plain}{moved}{family}{label}"

    @property
    def grid(self) -> Grid:
        """Not known: raises TypeError."""
        raise self._empty("grid")

    @property
    def max(self) -> Any:
        """Not known: raises TypeError."""
        raise self._empty("max")

    @property
    def max_pattern(self) -> Any:
        """Not known: raises TypeError."""
        raise self._empty("max")

    def values(self) -> np.ndarray:
        """Raises TypeError."""
        raise self._empty("values")

    def encode(self, values: Array) -> Array:
        """Raises TypeError."""
        raise self._empty("encode")

    def decode(self, codes: Array) -> Array:
        """Raises TypeError."""
        raise self._empty("decode")

    def _empty(self, verb: str) -> TypeError:
        return TypeError(
            f"`{verb}` was asked of {self.name}, a codebook without tables. Fill it first: "
            f"`formats.parse({self.name!r}).fill(tables)` with {1 << self.choice_bits} tables."
        )
