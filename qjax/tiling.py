"""Tiles that share a scale: the only place that splits arrays into them.

A `Tile` is relative to a use: how far one scale reaches along the axes that a dot product sums
over and along the others. `resolve` turns it, for one shape, into a `Layout`, which splits an
array into tiles by reshaping (it transposes only where several axes must be flattened that do not
divide into tiles one by one) and joins it again.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qjax._typing import Array, Axes, Shape


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, repr=False)
class Tile:
    """How far one scale reaches along contracted and kept axes; None is the whole extent.

    Attributes:
      contract: Elements along the contracted axes, flattened in order.
      keep: Elements along the kept axes, flattened in order.
      axis: The axis that tiles run along wherever they are used, as `contract` counts them. None
        leaves it to the use. A use that contracts another axis is refused.
      across: The one kept axis that tiles reach along, as `keep` counts them; None is all of them.
    """

    contract: int | None = None
    keep: int | None = None
    axis: int | None = None
    across: int | None = None

    def __post_init__(self):
        for name in ("contract", "keep"):
            extent = getattr(self, name)
            if extent is not None and (not isinstance(extent, int) or extent < 1):
                raise ValueError(
                    f"`Tile` was asked for {name}={extent!r}. "
                    "Give a whole number of elements, at least 1, or None for the whole extent."
                )
        for name in ("axis", "across"):
            axis = getattr(self, name)
            if axis is not None and not isinstance(axis, int):
                raise ValueError(
                    f"`Tile` was asked for {name}={axis!r}. Give the number of an axis, or None to "
                    "leave it to the use."
                )

    @property
    def elements(self) -> float:
        """Elements that share a scale; infinity where an extent is whole."""
        extents = (self.contract, self.keep)
        return math.inf if None in extents else float(math.prod(e for e in extents if e))

    def __repr__(self) -> str:
        fixed = [f"{n}={v}" for n in ("axis", "across") if (v := getattr(self, n)) is not None]
        return f"Tile({', '.join([f'contract={self.contract}', f'keep={self.keep}', *fixed])})"


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the tiles of one array lie.

    Attributes:
      shape: Shape of the array.
      order: Transposition before merging (the identity in nearly all uses).
      merged: Shape after flattening groups of axes.
      tiles: Tile extent along each merged axis.
      contract: The merged axes that a dot product sums over.
      batch: The merged batch axes.
    """

    shape: Shape
    order: tuple[int, ...]
    merged: Shape
    tiles: Shape
    contract: tuple[int, ...] = ()
    batch: tuple[int, ...] = ()

    @property
    def scale_shape(self) -> Shape:
        """Number of tiles along each merged axis: the shape of the scales."""
        return tuple(-(-n // t) if n else 0 for n, t in zip(self.merged, self.tiles))

    @property
    def is_whole(self) -> bool:
        """Whether the parts fit together: runs of the axes, in order, make the merged ones."""
        known = sorted(self.order) == list(range(len(self.shape)))
        if not known or len(self.tiles) != len(self.merged) or 0 in self.shape:
            return known and len(self.tiles) == len(self.merged) and 0 in self.merged
        axes = [self.shape[axis] for axis in self.order]
        for size in self.merged:
            part, run = math.prod(axes[:1]), 1
            while run < len(axes) and part != size:
                part, run = part * axes[run], run + 1
            axes = axes[run:] if part == size else [0]
        return all(n == 1 for n in axes)

    @property
    def view_shape(self) -> Shape:
        """Shape of the split array."""
        return tuple(size for size, _ in self._parts)

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of the split array that lie within a tile."""
        return tuple(i for i, (_, inside) in enumerate(self._parts) if inside)

    @property
    def _parts(self) -> list[tuple[int, bool]]:
        parts = []
        for n, t in zip(self.merged, self.tiles):
            if t == 1:
                parts += [(n, False)]
            elif t >= n:
                parts += [(n, True)]
            else:
                parts += [(-(-n // t), False), (t, True)]
        return parts

    @property
    def padding(self) -> list[tuple[int, int]]:
        """Zeros that complete the last tile along each merged axis."""
        return [(0, -n % t if t < n else 0) for n, t in zip(self.merged, self.tiles)]

    def split(self, x: Array, fill: Any = 0) -> Array:
        """Returns `x` with tiles split off, a short last tile padded with `fill`."""
        if self.order != tuple(range(x.ndim)):
            x = x.transpose(self.order)
        x = x.reshape(self.merged)
        if any(after for _, after in self.padding):
            x = jnp.pad(x, self.padding, constant_values=fill)
        return x.reshape(self.view_shape)

    def join(self, view: Array) -> Array:
        """Returns the array that was split."""
        padded = tuple(n + after for n, (_, after) in zip(self.merged, self.padding))
        return self._unmerged(view.reshape(padded))

    def spread(self, scale: Array) -> Array:
        """Returns one number per element from one per tile, in the shape of the array.

        A broadcast and a reshape of the small operand: the elements themselves keep their shape,
        so that a compiled loop may write its result in place.
        """
        own = self.shape == self.merged and self.order == tuple(range(len(self.shape)))
        if own and all(t == 1 or n == 1 for t, n in zip(self.tiles, self.scale_shape)):
            return jnp.broadcast_to(scale, self.shape)
        narrow, wide, full = [], [], []
        for t, count in zip(self.tiles, self.scale_shape):
            narrow += [count] if t == 1 else [count, 1]
            wide += [count] if t == 1 else [count, t]
            full += [count * t]
        x = jnp.broadcast_to(scale.reshape(narrow), wide).reshape(full)
        return self._unmerged(x)

    def _unmerged(self, x: Array) -> Array:
        """Returns a padded merged array in the shape of the original one."""
        if x.shape != self.merged:
            x = x[tuple(slice(0, n) for n in self.merged)]
        x = x.reshape(tuple(self.shape[axis] for axis in self.order))
        if self.order != tuple(range(x.ndim)):
            x = x.transpose(tuple(self.order.index(axis) for axis in range(x.ndim)))
        return x

    def gather(self, reduced: Array) -> Array:
        """Returns per-tile numbers, reduced with kept dimensions, in `scale_shape`."""
        return reduced.reshape(self.scale_shape)


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
