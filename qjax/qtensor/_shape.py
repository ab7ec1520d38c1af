"""Transpose, reshape and index quantized tensors without decoding them.

Each acts on the codes and, with the tiles in between, on the scales; what would cut a tile is
refused.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from qjax._typing import Shape
from qjax.tiling import Layout

ADVICE = "Decode first, or choose sizes and positions that are multiples of the tile."


def layout_of(tensor: Any, verb: str) -> Layout:
    """Returns the layout, refusing a stack, and tiles that run over several flattened axes."""
    layout = tensor.layout
    if tensor.qvalue.ndim != len(layout.shape):
        raise ValueError(
            f"`{verb}` was asked of codes of shape {tensor.qvalue.shape}, a stack of tensors of "
            f"shape {layout.shape}. Do it inside `jax.vmap`, where these were encoded."
        )
    if layout.merged != layout.shape or layout.order != tuple(range(len(layout.shape))):
        raise ValueError(
            f"`{verb}` was asked of a tensor of shape {layout.shape} whose tiles run over several "
            f"axes flattened together. {ADVICE}"
        )
    return layout


def rebuilt(tensor: Any, qvalue: Any, layout: Layout, source: Any, part: Any) -> Any:
    """Returns a tensor of new codes and layout; `part` acts on scales and zero points.

    Where the type names an axis it names the one that this has become (`source` as in
    `arranged`), and none where it is several now or none.
    """
    qtype = tensor.qtype
    names = {name: getattr(qtype.tile, name) for name in ("axis", "across")}
    moved = {name: _moved(axis, source, tensor.ndim) for name, axis in names.items()}
    if moved != names:
        qtype = dataclasses.replace(qtype, tile=dataclasses.replace(qtype.tile, **moved))
    scale = None if tensor.scale is None else part(tensor.scale)
    zero = None if tensor.zero_point is None else part(tensor.zero_point)
    parts = {"scale": scale, "zero_point": zero, "qtype": qtype, "layout": layout}
    return dataclasses.replace(tensor, qvalue=qvalue, **parts)


def _moved(axis: int | None, source: Sequence[Any], rank: int) -> int | None:
    """Returns what an axis has become, counted from the same end."""
    if axis is None:
        return None
    found = [new for new, old in enumerate(source) if old == axis % rank]
    if len(found) != 1:
        return None
    return found[0] - (len(source) if axis < 0 else 0)


def check_whole(tensor: Any, axes: Sequence[int], verb: str) -> None:
    """Refuses to cut or join, along `axes`, what was mapped as a whole along them."""
    if tensor.basis and any(axis in tensor.layout.contract for axis in axes):
        raise ValueError(
            f"`{verb}` was asked of {tensor!r} along axes that went through this map as a whole. "
            "Take the float tensor, or leave the map out of the recipe that it is packed by."
        )


def arranged(layout: Layout, sizes: Sequence[int], tiles: Sequence[int], source: Any) -> Layout:
    """Returns a layout of new sizes; `source[i]` is the old axis that new axis `i` came from."""
    shape = tuple(sizes)
    return Layout(
        shape=shape,
        order=tuple(range(len(shape))),
        merged=shape,
        tiles=tuple(tiles),
        contract=tuple(i for i, old in enumerate(source) if old in layout.contract),
        batch=tuple(i for i, old in enumerate(source) if old in layout.batch),
    )


def transpose(tensor: Any, axes: Sequence[int]) -> Any:
    """Returns the tensor with its axes permuted."""
    layout = layout_of(tensor, "transpose")
    axes = tuple(axis % len(layout.shape) for axis in axes)
    if sorted(axes) != list(range(len(layout.shape))):
        raise ValueError(
            f"`transpose` was given axes {axes} for {len(layout.shape)} dimensions. "
            "Give every axis once."
        )
    moved = arranged(layout, [layout.shape[a] for a in axes], [layout.tiles[a] for a in axes], axes)
    return rebuilt(tensor, tensor.qvalue.transpose(axes), moved, axes, lambda s: transpose(s, axes))


def reshape(tensor: Any, shape: Shape) -> Any:
    """Returns the tensor in another shape, where every tile stays in one piece."""
    layout = layout_of(tensor, "reshape")
    if math.prod(shape) != math.prod(layout.shape):
        raise ValueError(
            f"`reshape` was asked to make {shape} of {layout.shape}, which has another number of "
            "elements. Give a shape of as many."
        )
    tiles, source = [], []
    for old, new in _groups(layout.shape, shape):
        if len({i in layout.contract for i in old if layout.shape[i] > 1}) > 1:
            check_whole(tensor, old, "reshape")
        found = _split_tiles(layout, old, [shape[i] for i in new])
        if found is None:
            raise ValueError(
                f"`reshape` was asked to make {shape} of {layout.shape}, which cuts tiles of "
                f"{layout.tiles}. {ADVICE}"
            )
        tiles += found
        source += [old[-1] if old else None] * len(new)
    moved = arranged(layout, shape, tiles, source)
    return rebuilt(
        tensor, tensor.qvalue.reshape(shape), moved, source, lambda s: reshape(s, moved.scale_shape)
    )


def _groups(old: Shape, new: Shape) -> list[tuple[list[int], list[int]]]:
    """Returns runs of axes of both shapes that hold the same elements, in order."""
    groups, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        left, right = [], []
        a = b = 1
        if i < len(old):
            left, a, i = [i], old[i], i + 1
        if j < len(new):
            right, b, j = [j], new[j], j + 1
        while a != b:
            if (a < b and i < len(old)) or j >= len(new):
                left, a, i = [*left, i], a * old[i], i + 1
            else:
                right, b, j = [*right, j], b * new[j], j + 1
        groups.append((left, right))
    return groups


def _split_tiles(layout: Layout, old: list[int], sizes: list[int]) -> list[int] | None:
    """Returns tiles for the new axes of one run; None where a tile would be cut."""
    tiles = [layout.tiles[i] for i in old]
    whole = [layout.shape[i] for i in old]
    if sizes == whole:
        return tiles
    if tiles == whole:
        return sizes
    long = [t for t, n in zip(tiles, whole) if n > 1]
    last = long[-1] if long else 1
    inner = next((n for n in reversed(whole) if n > 1), 1)
    if any(t != 1 for t in long[:-1]) or inner % last:
        return None
    result = [1] * len(sizes)
    for i in reversed(range(len(sizes))):
        if sizes[i] > 1:
            if sizes[i] % last:
                return None
            result[i] = last
            break
    return result


def index(tensor: Any, key: Any) -> Any:
    """Returns the part that integers and slices select, whole tiles along tiled axes."""
    layout = layout_of(tensor, "indexing")
    key = _complete(key if isinstance(key, tuple) else (key,), layout.shape)
    along = [k for k in key if k is not None]
    cut = [i for i, (k, n) in enumerate(zip(along, layout.shape)) if k not in _every(n)]
    check_whole(tensor, cut, "indexing")
    sizes, tiles, source, outer, axes = [], [], [], [], iter(range(tensor.ndim))
    for k in key:
        if k is None:
            part, length, tile, axis = None, 1, 1, None
        else:
            axis = next(axes)
            n, t = layout.shape[axis], layout.tiles[axis]
            part, length = _part(k, axis, n, t)
            tile = max(1, length or 0) if t == n else t
        outer.append(part)
        if length is not None:
            sizes, tiles, source = [*sizes, length], [*tiles, tile], [*source, axis]
    moved = arranged(layout, sizes, tiles, source)
    return rebuilt(tensor, tensor.qvalue[key], moved, source, lambda s: index(s, tuple(outer)))


def _every(n: int) -> tuple[slice, slice]:
    """Returns the slices that take all of an axis."""
    return slice(None), slice(n)


def _complete(key: tuple[Any, ...], shape: Shape) -> tuple[Any, ...]:
    """Returns a key with an integer or slice for every axis, and None for new ones."""
    known = [int(k) if _is_integer(k) else k for k in key]
    dots = [i for i, k in enumerate(known) if k is Ellipsis]
    count = sum(k is not None and k is not Ellipsis for k in known)
    whole = all(k is None or k is Ellipsis or isinstance(k, int | slice) for k in known)
    if count > len(shape) or len(dots) > 1 or not whole or any(isinstance(k, bool) for k in key):
        raise ValueError(
            f"A quantized tensor of shape {shape} was indexed with {key!r}. Give at most one "
            "integer or slice per axis, one `...` for those that are left out, and None for a new "
            "axis; decode it first to pick elements by arrays."
        )
    place = dots[0] if dots else len(known)
    every = [slice(None)] * (len(shape) - count)
    return (*known[:place], *every, *known[place + 1 :])


def _is_integer(k: Any) -> bool:
    return isinstance(k, int | np.integer) and not isinstance(k, bool)


def _part(k: Any, axis: int, n: int, t: int) -> tuple[Any, int | None]:
    """Returns what an integer or slice takes of the tiles of an axis, and of its elements.

    Args:
      k: The integer or slice.
      axis: The axis, for messages.
      n: Its length.
      t: Of its tiles.

    Returns:
      An integer or slice of tiles, and the number of elements, None where the axis goes.
    """
    if isinstance(k, int):
        if not -n <= k < n:
            raise IndexError(f"Index {k} is out of range for axis {axis} of size {n}.")
        return k % n // t, None
    start, stop, step = k.indices(n)
    fits = step == 1 and (t == n or (start % t == 0 and (stop % t == 0 or stop == n)))
    if not (fits or t == 1):
        raise ValueError(f"Slice {k} of axis {axis} cuts tiles of {t} elements. {ADVICE}")
    length = len(range(start, stop, step))
    if t == 1 or not length:
        return slice(start, stop, step), length
    return slice(None) if t == n else slice(start // t, -(-stop // t)), length
