"""What an explicit mesh splits: which reshapes leave every element where it lies, and which not.

Axes of type `AxisType.Auto` are none of this file's business: there the compiler moves what it
must. Under `AxisType.Explicit` nothing moves unasked, so that blocks which devices cut are refused.
"""

import math
from collections.abc import Sequence

import jax

from qjax._typing import Array, Shape

# What becomes of an axis of an array: the sizes that stand for it, one of them where it stays.
Parts = Sequence[Sequence[int]]


def shards(x: Array, axis: int) -> int:
    """Returns over how many devices an explicit mesh splits an axis of `x`."""
    sharding = jax.typeof(x).sharding
    names = sharding.spec[axis] or ()
    names = names if isinstance(names, tuple) else (names,)
    return math.prod(sharding.mesh.shape[name] for name in names)


def check_tiles(x: Array, axes: Sequence[int], tile: int, sizes: Shape) -> None:
    """Refuses tiles that an explicit mesh cuts.

    Args:
      x: The array.
      axes: Its axes that are flattened, in order, to one that tiles run along.
      tile: Elements of a tile along it.
      sizes: What that axis is split into.

    Raises:
      ValueError: If devices cut tiles, or flattened axes do not lie in order.
    """
    # One tile, and tiles that are as many as the outer shards, lie in order nevertheless.
    ordered = len(sizes) == 1 or sizes[0] == shards(x, axes[0])
    check_flattened(x, axes, f"Tiles of {tile} elements", inner=ordered)
    if len(sizes) > 1 and sizes[0] % shards(x, axes[0]):
        raise blocks_cut(x, axes[0], tile, "Tiles")


def check_flattened(x: Array, axes: Sequence[int], what: str, *, inner: bool = True) -> None:
    """Refuses to flatten axes of which an explicit mesh splits other ones than the outer.

    Args:
      x: The array.
      axes: The axes, in their order.
      what: What was asked for along them.
      inner: Whether inner axes may be split too, where all before them are.

    Raises:
      ValueError: Naming the axis.
    """
    spec = jax.typeof(x).sharding.spec
    long = [axis for axis in axes if x.shape[axis] != 1]
    for axis, before in zip(long[1:], long):
        if spec[axis] is None or (inner and spec[before] is not None):
            continue
        raise ValueError(
            f"{what} were asked for along the axes {tuple(axes)} together of an array of shape "
            f"{x.shape}, but an explicit mesh splits axis {axis} over {shards(x, axis)} devices "
            f"({spec}), so that they do not lie in order. {_advice(x, axis)}, ask for what "
            "divides these axes one by one, or give the mesh axes of type Auto."
        )


def blocks_cut(x: Array, axis: int, block: int, what: str) -> ValueError:
    """Returns the error of blocks, called `what`, along an axis that an explicit mesh cuts."""
    count, size = shards(x, axis), x.shape[axis]
    return ValueError(
        f"{what} of {block} elements were asked for along axis {axis} of an array of shape "
        f"{x.shape}, but an explicit mesh splits that axis over {count} devices "
        f"({jax.typeof(x).sharding.spec}), {size // count} element(s) on each, which cuts them. "
        f"{_advice(x, axis)}, ask for shorter ones that divide the elements of a device, or "
        "give the mesh axes of type Auto."
    )


def _advice(x: Array, axis: int) -> str:
    spec = jax.typeof(x).sharding.spec
    names = ", ".join(repr(None if i == axis else name) for i, name in enumerate(spec))
    return f"Gather it before (`jax.sharding.reshard(x, jax.P({names}))`)"


def taken_apart(x: Array, parts: Parts) -> Array:
    """Returns `x` with every axis split into its parts."""
    if not _is_split(x):
        return x.reshape([n for part in parts for n in part])
    # JAX splits one axis at a time beside axes that a mesh splits.
    for axis in reversed(range(len(parts))):
        x = x.reshape(*x.shape[:axis], *parts[axis], *x.shape[axis + 1 :])
    return x


def put_together(x: Array, parts: Parts) -> Array:
    """Returns `x` with the parts of every axis made one again; undoes `taken_apart`."""
    whole = [math.prod(part) for part in parts]
    if not _is_split(x):
        return x.reshape(whole)
    for axis, part in enumerate(parts):
        x = x.reshape(*x.shape[:axis], whole[axis], *x.shape[axis + len(part) :])
    return x


def _is_split(x: Array) -> bool:
    return any(names is not None for names in jax.typeof(x).sharding.spec)
