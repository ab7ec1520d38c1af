"""From a tile, a shape and the axes of a use to a layout."""

import math

import numpy as np

from qjax._typing import Axes, Shape
from qjax.tiling._layout import Layout
from qjax.tiling._tile import Tile


def normalize(axes: Axes, rank: int, argument: str) -> tuple[int, ...]:
    """Returns non-negative axes.

    Raises:
      ValueError: If an axis is out of range or repeated.
    """
    result = []
    for axis in axes:
        if not isinstance(axis, int | np.integer) or not -rank <= axis < rank:
            raise ValueError(
                f"`{argument}` names axis {axis}, but the array has {rank} dimension(s). "
                f"Give axes from {-rank} to {rank - 1}."
            )
        result.append(int(axis) % rank)
    if len(set(result)) < len(result):
        raise ValueError(f"`{argument}` names an axis twice: {tuple(axes)}. Name each axis once.")
    return tuple(result)


def resolve(shape: Shape, tile: Tile, contract: Axes | None = None, batch: Axes = ()) -> Layout:
    """Returns where the tiles of an array lie.

    Args:
      shape: Shape of the array.
      tile: Extents of a tile.
      contract: The axes that a dot product sums over, flattened in this order. By default the
        tile's own axis, or the last.
      batch: Axes that a finite `tile.keep` never spans; a whole one does.

    Raises:
      ValueError: If an axis is out of range, or both contracted and batch, or not the tile's own.
    """
    rank = len(shape)
    if contract is None:
        contract = (-1 if tile.axis is None else tile.axis,)
    contract = normalize(contract, rank, "contract")
    batch = normalize(batch, rank, "batch")
    normalize(contract + batch, rank, "contract + batch")
    _check_axis(tile, contract, rank)
    keep = tuple(axis for axis in range(rank) if axis not in contract + batch)
    if tile.across is not None:
        batch, keep = _across(tile, batch, keep, rank)
    elif tile.keep is None:
        keep = tuple(sorted(keep + batch))
    extents = dict.fromkeys(batch, 1)
    groups = []
    for axes, extent in ((contract, tile.contract), (keep, tile.keep)):
        found = _extents(shape, axes, extent)
        if found is None:
            assert extent is not None
            groups.append((axes, extent))
        else:
            extents.update(found)
    return _layout(shape, extents, groups, contract, batch)


def _check_axis(tile: Tile, contract: tuple[int, ...], rank: int) -> None:
    """Refuses a use along other axes than the tile's own."""
    if tile.axis is not None and normalize((tile.axis,), rank, "axis") != contract:
        raise ValueError(
            f"A type fixes its tiles along axis {tile.axis}, but they were asked for along "
            f"{_listed(contract)} of an array of {rank} dimension(s). Ask for the type's own "
            "axis, or leave it out of the type (`dD` of a name), whose tiles then follow the use."
        )


def _across(
    tile: Tile, batch: tuple[int, ...], keep: tuple[int, ...], rank: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the axes that are not spanned, and the one kept axis that a tile names."""
    assert tile.across is not None
    (across,) = normalize((tile.across,), rank, "across")
    if across not in keep:
        raise ValueError(
            f"A type fixes its tiles across axis {tile.across}, but of an array of {rank} "
            f"dimension(s) they may reach across {_listed(keep)} here. Leave it out of the type "
            "(the second `dD` of a name), or name another."
        )
    return batch + tuple(axis for axis in keep if axis != across), (across,)


def _listed(axes: tuple[int, ...]) -> str:
    return f"{'axis' if len(axes) == 1 else 'axes'} {', '.join(map(str, axes)) or '(none)'}"


def _extents(shape: Shape, axes: tuple[int, ...], extent: int | None) -> dict[int, int] | None:
    """Returns a tile extent per axis, or None where the axes must be flattened first."""
    if extent is None:
        return {axis: shape[axis] or 1 for axis in axes}
    result, left = {}, extent
    for position in reversed(range(len(axes))):
        size = shape[axes[position]]
        outermost = all(shape[axis] == 1 for axis in axes[:position])
        if size <= 1 or left == 1:
            taken = 1
        elif size % left == 0 or outermost:
            taken = min(left, size)
            left = 1
        elif left % size == 0:
            taken = size
            left //= size
        else:
            return None
        result[axes[position]] = taken
    return result


def _layout(
    shape: Shape,
    extents: dict[int, int],
    groups: list[tuple[tuple[int, ...], int]],
    contract: tuple[int, ...],
    batch: tuple[int, ...],
) -> Layout:
    """Returns the layout with each group of axes flattened where its first axis stood."""
    parts = [((axis,), extent) for axis, extent in extents.items()] + groups
    parts.sort(key=lambda part: min(part[0]))
    sizes = tuple(math.prod(shape[axis] for axis in axes) for axes, _ in parts)
    place = {axis: i for i, (axes, _) in enumerate(parts) for axis in axes}
    return Layout(
        shape=tuple(shape),
        order=tuple(axis for axes, _ in parts for axis in axes),
        merged=sizes,
        tiles=tuple(max(1, min(extent, size)) for (_, extent), size in zip(parts, sizes)),
        contract=tuple(dict.fromkeys(place[axis] for axis in contract)),
        batch=tuple(dict.fromkeys(place[axis] for axis in batch)),
    )
