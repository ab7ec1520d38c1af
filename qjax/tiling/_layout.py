"""Where the tiles of one array lie, and how it is split into them and joined again."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp

from qjax._typing import Array, Shape
from qjax.tiling import _shards


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
        return tuple(size for sizes in self._parts for size in sizes)

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of the split array that lie within a tile."""
        inside = []
        for t, sizes in zip(self.tiles, self._parts):
            inside += [False, True] if len(sizes) == 2 else [t > 1]
        return tuple(i for i, within in enumerate(inside) if within)

    @property
    def _parts(self) -> list[Shape]:
        """What each merged axis is split into: tiles and their elements, or one of these."""
        extents = zip(self.merged, self.tiles)
        return [(n,) if t == 1 or t >= n else (-(-n // t), t) for n, t in extents]

    @property
    def _groups(self) -> list[tuple[int, ...]]:
        """The axes of the array that each merged one is made of, in order."""
        groups, start, last = [], 0, len(self.merged) - 1
        for i, size in enumerate(self.merged):
            end = start + 1
            while end < len(self.order) and math.prod(self._sizes(self.order[start:end])) != size:
                end += 1
            groups.append(self.order[start:] if i == last else self.order[start:end])
            start = end
        return groups

    def _sizes(self, axes: tuple[int, ...]) -> Shape:
        return tuple(self.shape[axis] for axis in axes)

    @property
    def padding(self) -> list[tuple[int, int]]:
        """Zeros that complete the last tile along each merged axis."""
        return [(0, -n % t if t < n else 0) for n, t in zip(self.merged, self.tiles)]

    def split(self, x: Array, fill: Any = 0) -> Array:
        """Returns `x` with tiles split off, a short last tile padded with `fill`.

        Raises:
          ValueError: If an explicit mesh cuts tiles.
        """
        groups = self._groups
        for axes, tile, sizes in zip(groups, self.tiles, self._parts):
            _shards.check_tiles(x, axes, tile, sizes)
        if self.order != tuple(range(x.ndim)):
            x = x.transpose(self.order)
        x = _shards.put_together(x, [self._sizes(axes) for axes in groups])
        if any(after for _, after in self.padding):
            x = jnp.pad(x, self.padding, constant_values=fill)
        return _shards.taken_apart(x, self._parts)

    def join(self, view: Array) -> Array:
        """Returns the array that was split."""
        return self._unmerged(_shards.put_together(view, self._parts))

    def spread(self, scale: Array) -> Array:
        """Returns one number per element from one per tile or one for all, in the array's shape.

        A broadcast and a reshape of the small operand: the elements themselves keep their shape,
        so that a compiled loop may write its result in place.
        """
        if scale.size == 1:
            return jnp.broadcast_to(scale.reshape(()), self.shape)
        own = self.shape == self.merged and self.order == tuple(range(len(self.shape)))
        if own and all(t == 1 or n == 1 for t, n in zip(self.tiles, self.scale_shape)):
            return jnp.broadcast_to(scale, self.shape)
        counts = list(zip(self.scale_shape, self.tiles))
        narrow = [n for count, t in counts for n in ((count,) if t == 1 else (count, 1))]
        wide = [(count,) if t == 1 else (count, t) for count, t in counts]
        x = jnp.broadcast_to(scale.reshape(narrow), [n for sizes in wide for n in sizes])
        return self._unmerged(_shards.put_together(x, wide))

    def _unmerged(self, x: Array) -> Array:
        """Returns a padded merged array in the shape of the original one."""
        if x.shape != self.merged:
            x = x[tuple(slice(0, n) for n in self.merged)]
        x = _shards.taken_apart(x, [self._sizes(axes) for axes in self._groups])
        if self.order != tuple(range(x.ndim)):
            x = x.transpose(tuple(self.order.index(axis) for axis in range(x.ndim)))
        return x

    def gather(self, reduced: Array) -> Array:
        """Returns per-tile numbers, reduced with kept dimensions, in `scale_shape`."""
        return reduced.reshape(self.scale_shape)
