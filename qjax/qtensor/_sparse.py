"""N of M: which elements of a group are kept, and how these alone are stored.

In memory a tensor has a code for every element, where one that is not kept has that of zero. In
files, and in what is counted, the codes of the kept stand behind each other, with a bit for every
element that says whether it is kept.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from qjax import tiling
from qjax._typing import Array
from qjax.apart import apart
from qjax.formats import Choice
from qjax.qtypes import Sparsity
from qjax.tiling import Layout

# Up to this size of a group its elements are compared one after the other.
UNROLLED = 16


def _kept(x: Array, sparsity: Sparsity, layout: Layout) -> Array:
    """Returns which elements are kept: of each group those of largest magnitude, the first of
    equals.

    Bits are compared, for a processor may read subnormals as zero. A NaN is larger than all else.

    Args:
      x: Floating-point array.
      sparsity: How many of how many.
      layout: Where the tiles of the array lie.
    """
    integer = {1: jnp.int8, 2: jnp.int16, 4: jnp.int32, 8: jnp.int64}[x.dtype.itemsize]
    sizes = jax.lax.bitcast_convert_type(x, integer) & jnp.iinfo(integer).max
    groups = _Groups(sparsity, layout)
    # Nothing is padded along axes that an explicit mesh splits.
    if groups.in_line and not any(jax.typeof(x).sharding.spec):
        ranks = _ranks_in_line(groups.flat.split(sizes), groups.length)
        return groups.flat.join(ranks < sparsity.kept)
    return groups.join(_ranks(groups.split(sizes)) < sparsity.kept)


# Found once, and not again wherever an element is looked at.
kept = apart(_kept, static_argnums=(1, 2))


def _ranks(rows: Array) -> Array:
    """Returns how many of its row stand before each element, in [..., group]."""
    index = jnp.arange(rows.shape[-1])
    if len(index) > UNROLLED:
        mine, other = rows[..., :, None], rows[..., None, :]
        return jnp.sum((other > mine) | ((other == mine) & (index < index[:, None])), axis=-1)
    # One element after the other: a tenth of the time that a sum over pairs takes.
    rank = jnp.zeros(rows.shape, jnp.int32)
    for i in range(len(index)):
        other = rows[..., i : i + 1]
        rank += ((other > rows) | ((other == rows) & (i < index))).astype(jnp.int32)
    return rank


def _ranks_in_line(sizes: Array, group: int) -> Array:
    """Returns the same for groups that lie behind each other in memory, in [..., n].

    Every element is compared with the one so far behind it in its group, round and round: vectors
    of neighbours with vectors of neighbours, in half the time of groups as rows. Where a short last
    group ends, zeros follow, before which equals stand.
    """
    n, last = sizes.shape[-1], sizes.ndim - 1
    ends = [(0, 0)] * last + [(group - 1, group - 1)]
    wide = jax.lax.optimization_barrier(jnp.pad(sizes, ends))
    place = jax.lax.rem(jax.lax.broadcasted_iota(jnp.int32, sizes.shape, last), jnp.int32(group))
    rank = jnp.zeros(sizes.shape, jnp.int32)
    for far in range(1, group):
        behind, before = (wide[..., at : at + n] for at in (group - 1 + far, far - 1))
        inside = place + far < group
        other = jnp.where(inside, behind, before)
        rank += ((other > sizes) | ((other == sizes) & ~inside)).astype(jnp.int32)
    return rank


def cleared(tensor: Any, keep: Array) -> Any:
    """Returns the tensor with the code of zero for all elements that are not kept."""
    format = tensor.qtype.format
    if isinstance(format, Choice):
        _, choice = format.part(tensor.qvalue)
        codes = format.join(_indices(format, choice), choice)
    else:
        codes = format.store(_zeros(tensor.layout, tensor.zero_point))
    return dataclasses.replace(tensor, qvalue=jnp.where(keep, tensor.qvalue, codes))


def squeezed(tensor: Any) -> tuple[Array, Array]:
    """Returns the codes of the kept, as many of each group, and which elements these are.

    Args:
      tensor: A tensor or a stack of them, as `jax.vmap` of an encoding makes.

    Raises:
      ValueError: If a group has more codes than are kept.
    """
    codes, mask, most = _each_squeezed(_flat(tensor, tensor.qvalue.ndim - tensor.ndim))
    sparsity = tensor.qtype.sparsity
    if int(jnp.max(most, initial=0)) > sparsity.kept:
        raise ValueError(
            f"{tensor!r} keeps {sparsity.kept} of every {sparsity.group} elements, but has a group "
            "with more, as where it was cut or joined within one. Decode it and encode it again."
        )
    return codes, mask


@jax.jit
@jax.vmap
def _each_squeezed(tensor: Any) -> tuple[Array, Array, Array]:
    """Returns one tensor's codes, which they are, and the most that a group has."""
    format, sparsity = tensor.qtype.format, tensor.qtype.sparsity
    if isinstance(format, Choice):
        codes, choice = format.part(tensor.qvalue)
        zero = _indices(format, choice)
    else:
        codes = format.encode(format.load(tensor.qvalue))
        zero = format.encode(_zeros(tensor.layout, tensor.zero_point))
    groups = _Groups(sparsity, tensor.layout)
    filled = groups.split(codes != zero)
    # What is filled comes first, then zeros from the beginning, so that each group has as many.
    order = jnp.argsort(~filled, axis=-1, stable=True)
    chosen = jnp.sort(order[..., : sparsity.kept], axis=-1)
    mask = jnp.any(chosen[..., None] == jnp.arange(groups.length), axis=-2)
    most = jnp.max(jnp.sum(filled, axis=-1), initial=0)
    return jnp.take_along_axis(groups.split(codes), chosen, axis=-1), groups.join(mask), most


def stretched(codes: Array, keep: Array, like: Any, choice: Array | None) -> Array:
    """Returns the codes of all elements: the inverse of `squeezed`.

    Args:
      codes: Of the kept, flat.
      keep: Which elements they are, in the shape of the tensor or of the stack.
      like: The tensor but for its codes.
      choice: The chosen tables, one per element, or None.
    """
    stack = keep.ndim - like.ndim
    several = math.prod(keep.shape[:stack])
    parts = _flat((keep, like.zero_point, choice), stack)
    found = _each_stretched(like.qtype, like.layout, codes.reshape(several, -1), *parts)
    return found.reshape(keep.shape)


@functools.partial(jax.jit, static_argnums=(0, 1))
@functools.partial(jax.vmap, in_axes=(None, None, 0, 0, 0, 0))
def _each_stretched(
    qtype: Any, layout: Layout, codes: Array, keep: Array, zero_point: Any, choice: Any
) -> Array:
    """Returns all codes of one tensor."""
    format, groups = qtype.format, _Groups(qtype.sparsity, layout)
    mask = groups.split(keep)
    rows = codes.reshape(*mask.shape[:-1], -1)
    place = jnp.clip(jnp.cumsum(mask, axis=-1) - 1, 0, rows.shape[-1] - 1)
    if isinstance(format, Choice):
        zero = _indices(format, choice)
    else:
        zero = format.encode(_zeros(layout, zero_point))
    found = groups.join(jnp.take_along_axis(rows, place, axis=-1))
    return jnp.where(keep, found, zero.astype(found.dtype))


def _zeros(layout: Layout, zero_point: Any) -> Array:
    """Returns what zero is before scales: zero points per element, or a single zero."""
    if zero_point is None:
        return jnp.zeros((), jnp.float32)
    return layout.spread(zero_point.decode(jnp.float32))


def _indices(format: Choice, choice: Array) -> Array:
    """Returns the int32 indices of zero in the chosen tables."""
    return jnp.asarray([table.table.index(0.0) for table in format.tables])[choice]


def _flat(tree: Any, stack: int) -> Any:
    """Returns arrays with their first axes, those of a stack, as one."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[stack:]), tree)


def count(sparsity: Sparsity, layout: Layout) -> int:
    """Returns how many codes are stored of a tensor."""
    groups = _Groups(sparsity, layout)
    return math.prod(groups.inner.scale_shape) * min(sparsity.kept, groups.length)


class _Groups:
    """Arrays split into rows, one for each group, [..., group]; a short last one has zeros."""

    def __init__(self, sparsity: Sparsity, layout: Layout):
        # Axes that tiles flatten are flattened first, so that groups lie within tiles.
        self.flat = dataclasses.replace(layout, tiles=(1,) * len(layout.merged))
        tile = sparsity.tile
        self.inner = tiling.resolve(layout.merged, tile, layout.contract, layout.batch)
        axes = self.inner.axes
        self.order = tuple(i for i in range(len(self.inner.view_shape)) if i not in axes) + axes
        self.length = math.prod(self.inner.view_shape[i] for i in axes)
        last = axes == (len(self.inner.view_shape) - 1,) and self.inner.merged == layout.merged
        self.in_line = last and self.length <= UNROLLED

    def split(self, x: Array) -> Array:
        view = self.inner.split(self.flat.split(x)).transpose(self.order)
        return view.reshape(*view.shape[: len(self.order) - len(self.inner.axes)], self.length)

    def join(self, rows: Array) -> Array:
        shape = tuple(self.inner.view_shape[i] for i in self.order)
        inverse = tuple(self.order.index(i) for i in range(len(self.order)))
        return self.flat.join(self.inner.join(rows.reshape(shape).transpose(inverse)))
