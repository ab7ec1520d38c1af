"""Of every few neighbours only some are stored: N-of-M sparsity, as a part of a type.

Which elements are kept, and how they alone are stored, is in `qjax.qtensor`.
"""

import dataclasses
from typing import Any

import jax

from qjax.formats import Blank, Choice, Codebook, Format, FourthRoots, Int
from qjax.tiling import Tile


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Sparsity:
    """Of every `group` neighbours along a tile, the `kept` of largest magnitude; others are zero.

    Of equal magnitudes the first is kept. Groups count from the beginning of the axis; a short
    last one counts as padded with zeros.

    Attributes:
      kept: Elements of a group that are kept, N of N-of-M.
      group: Elements of a group, M of N-of-M; it divides the tile.
      across: Whether groups lie along the kept axes of a tile instead of the contracted ones.

    References:
      Mishra et al., "Accelerating sparse deep neural networks", arXiv:2104.08378 (two of four).
    """

    kept: int
    group: int
    across: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self):
        whole = isinstance(self.kept, int) and isinstance(self.group, int)
        if not whole or not 1 <= self.kept < self.group:
            raise ValueError(
                f"`Sparsity` was asked to keep {self.kept!r} of every {self.group!r} elements. "
                "Give whole numbers, at least one kept and at least one not."
            )

    @property
    def tile(self) -> Tile:
        """A group as a tile."""
        return Tile(1, self.group) if self.across else Tile(self.group, 1)

    def bits(self, width: Any) -> Any:
        """Returns the bits of one element where a kept one has `width`.

        The kept elements of a group are stored behind each other, and one bit for every element
        says whether it is kept.
        """
        return width * self.kept / self.group + 1


def check(sparsity: Sparsity, format: Format, tile: Tile, zero: Format | None) -> None:
    """Refuses groups that tiles would cut, and elements that cannot be zero.

    Raises:
      ValueError: If the group does not divide the tile, or no code stands for exactly zero.
    """
    asked = f"A type was asked to keep {sparsity.kept} of every {sparsity.group} elements"
    extent = tile.keep if sparsity.across else tile.contract
    if extent is not None and extent % sparsity.group:
        raise ValueError(
            f"{asked} of tiles (or subtiles) of {extent}. Give a group that divides them."
        )
    if zero is not None and not isinstance(zero, Int):
        raise ValueError(
            f"{asked} around a zero point in {zero.name}, where no element is exactly zero. Give "
            "an integer zero point."
        )
    if format.static and not _holds_zero(format):
        raise ValueError(
            f"{asked} in {format.name}, which has no zero for the others. Give a format with one."
        )


def _holds_zero(format: Format) -> bool:
    if isinstance(format, Choice):
        return all(map(_holds_zero, format.tables))
    if isinstance(format, Codebook):
        return 0.0 in format.table
    # What is not filled in yet is asked again when it is.
    unknown = isinstance(format, Blank)
    return unknown or (not isinstance(format, FourthRoots) and format.grid.floor is None)
