"""Join quantized tensors without decoding them: codes, scales and their scales, part by part.

Where one scale spans a whole part it cannot span the whole. A scale of scales (the float32 of
NVFP4) may be the same for all parts, and is then that of the whole; otherwise each part keeps its
own, and the type of the result says how far it reaches. Nothing is rounded again.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from qjax import tiling
from qjax.qtensor._shape import ADVICE, arranged, check_whole, layout_of
from qjax.tiling import Layout, Tile, normalize


def concatenate(tensors: Sequence[Any], axis: int = 0) -> Any:
    """Returns tensors of one type joined along an axis, where tiles stay whole.

    Scales of scales that span this axis are kept for each part where they differ, or where they
    are traced and may: the type of the result then names the tile that they have, which is
    another than that of the parts.

    Raises:
      ValueError: If types or tiles differ, or an inner boundary would cut a tile.
    """
    if not tensors:
        raise ValueError("`concatenate` was given no tensors. Give at least one.")
    first, layout = tensors[0], layout_of(tensors[0], "concatenate")
    (axis,) = normalize((axis,), len(layout.shape), "axis")
    check_whole(first, (axis,), "concatenate")
    for tensor in tensors[1:]:
        own = _without(layout_of(tensor, "concatenate"), axis)
        if (tensor.kind, tensor.qtype, own) != (first.kind, first.qtype, _without(layout, axis)):
            raise ValueError(
                f"`concatenate` was given {tensor!r} beside {first!r}. Give tensors of one type "
                "and tile, and of one shape but for the axis."
            )
    return _joined(tensors, axis)


def _without(layout: Layout, axis: int) -> Layout:
    """What two layouts have in common that can be joined along an axis."""
    sizes, tiles = ((*each[:axis], 0, *each[axis + 1 :]) for each in (layout.shape, layout.tiles))
    return dataclasses.replace(layout, shape=sizes, merged=sizes, tiles=tiles)


def _joined(tensors: Sequence[Any], axis: int, below: bool = False) -> Any:
    """Joins tensors of one type; `below` says that they are the scales of others."""
    first, sizes = tensors[0], [tensor.shape[axis] for tensor in tensors]
    layout, tile = first.layout, first.qtype.tile
    whole = _sized(layout, axis, sum(sizes), sum(sizes))
    reach = tiling.resolve(whole.shape, tile, layout.contract, layout.batch).tiles[axis]
    scales = [[t.scale for t in tensors], [t.zero_point for t in tensors]]
    # Where nothing is shared, no tile can be cut.
    shares = first.scale is not None or first.zero_point is not None
    shares = shares or first.qtype.format.tile_bits
    t = _extent(tensors, axis, reach) if shares else reach
    if t is None and not (below and reach == whole.shape[axis]):
        raise ValueError(
            f"`concatenate` was asked to join {first!r} along axis {axis}, where one scale spans "
            f"{layout.tiles[axis]} elements. {ADVICE}"
        )
    if t is None and all(_alike(level) for level in scales):
        t, scales = reach, [level[:1] for level in scales]
    elif t is None:
        t = math.gcd(*sizes[:-1]) or max(1, sizes[-1])
        counts = [-(-size // t) for size in sizes]
        scales = [[s for s, n in zip(level, counts) for _ in range(n)] for level in scales]
        tile = _reaching(tile, _sized(layout, axis, sum(sizes), t), axis)
    scale, zero = (None if s[0] is None else _joined(s, axis, True) for s in scales)
    types = {"scale": scale and scale.qtype, "zero": zero and zero.qtype}
    return dataclasses.replace(
        first,
        qvalue=jnp.concatenate([x.qvalue for x in tensors], axis),
        scale=scale,
        zero_point=zero,
        qtype=dataclasses.replace(first.qtype, tile=tile, **types),
        layout=_sized(layout, axis, sum(sizes), t),
    )


def _sized(layout: Layout, axis: int, size: int, tile: int) -> Layout:
    """Returns a layout of another extent, of the array and of its tiles, along one axis."""
    sizes, tiles = list(layout.shape), list(layout.tiles)
    sizes[axis], tiles[axis] = size, tile
    return arranged(layout, sizes, tiles, range(len(sizes)))


def _extent(tensors: Sequence[Any], axis: int, reach: int) -> int | None:
    """Returns how far tiles reach along an axis in all parts; None where one would be cut.

    Args:
      tensors: The parts.
      axis: Where they are joined.
      reach: How far tiles of this type reach in the whole.
    """
    pairs = [(x.shape[axis], x.layout.tiles[axis]) for x in tensors]
    t = next((t for n, t in pairs if n > t), reach)
    fit = all(own == min(t, max(1, n)) for n, own in pairs)
    return t if fit and not any(n % t for n, _ in pairs[:-1]) else None


def _alike(scales: Sequence[Any]) -> bool:
    """Whether all parts have the same scales, as far as numbers are known."""
    first, *others = (jax.tree.leaves(scale) for scale in scales)
    if any(isinstance(x, Tracer) for leaves in (first, *others) for x in leaves):
        return not others
    return all(np.array_equal(x, y) for leaves in others for x, y in zip(first, leaves))


def _reaching(tile: Tile, layout: Layout, axis: int) -> Tile:
    """Returns the tile that lies as a layout says.

    Raises:
      ValueError: If none does, as tiles of several kept axes are numbered in order.
    """
    role = "contract" if axis in layout.contract else "keep"
    along = [n for n in range(len(layout.shape)) if (n in layout.contract) == (role == "contract")]
    found = dataclasses.replace(tile, **{role: math.prod(layout.tiles[n] for n in along)})
    if tiling.resolve(layout.shape, found, layout.contract, layout.batch).tiles != layout.tiles:
        raise ValueError(
            f"`concatenate` was asked to join along axis {axis} of {len(layout.shape)}, and the "
            "scales of scales of the parts differ or are traced. No type has tiles of this axis "
            "alone: join along the first axis or the contracted one, encode the parts with one "
            "bound (`calibration.Fixed`), or join the float arrays."
        )
    return found
