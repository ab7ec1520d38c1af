"""Casts of the operands of a product, each a function of its own in the compiled program.

XLA's CPU would fuse a cast with what makes the operand and with a transposition after it: it then
computes both again for every reader, and goes along columns element by element. Kept apart, a cast
runs along memory, and one that several products share, such as that of the input of three dense
layers, is made once.
"""

import jax

from qjax._typing import Array, DTypeLike, Key, PyTree
from qjax.apart import apart
from qjax.contraction.axes import OperandAxes


def values(quantizer: PyTree, x: Array, axes: OperandAxes, key: Key | None, dtype: DTypeLike):
    """What `quantizer.cast` gives, in `dtype`."""
    return _call("cast", quantizer, x, axes, key, dtype)


def units(quantizer: PyTree, x: Array, axes: OperandAxes, key: Key | None, dtype: DTypeLike):
    """What `quantizer.units` gives: values in `dtype` before their scales, and the scales."""
    return _call("units", quantizer, x, axes, key, dtype)


def parts(quantizer: PyTree, x: Array, axes: OperandAxes, key: Key | None, dtype: DTypeLike):
    """What `BitSplit.parts` gives."""
    return _call("parts", quantizer, x, axes, key, dtype)


def _call(name, quantizer, x, axes, key, dtype):
    static, numbers = split(quantizer)
    # What tells where it stands must be traced there.
    make = _cast_here if getattr(quantizer, "tells_place", False) else _cast
    return make(name, static, numbers, x, axes, key, jax.numpy.dtype(dtype))


def _cast_here(name, static, numbers, x, axes, key, dtype):
    make = getattr(merge(static, numbers), name)
    return make(x, contract=axes.contract, batch=axes.batch, key=key, dtype=dtype)


_cast = apart(_cast_here, static_argnums=(0, 1, 4, 6))


def split(tree: PyTree) -> tuple[tuple, tuple]:
    """Returns what of a tree of numbers is compiled in, and its arrays."""
    # Numbers written in Python stay static, so that XLA specialises on them; arrays and
    # traced numbers are passed as arguments, because a `custom_vjp` may not close over them.
    leaves, treedef = jax.tree.flatten(tree)
    dynamic = tuple(isinstance(leaf, jax.Array) for leaf in leaves)
    fixed = tuple(None if moves else leaf for leaf, moves in zip(leaves, dynamic))
    return (treedef, fixed), tuple(leaf for leaf, moves in zip(leaves, dynamic) if moves)


def merge(static: tuple, numbers: PyTree) -> PyTree:
    """Returns the tree that `split` took apart."""
    treedef, fixed = static
    moving = iter(numbers)
    return jax.tree.unflatten(treedef, [next(moving) if x is None else x for x in fixed])
