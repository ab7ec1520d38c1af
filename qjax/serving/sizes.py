"""Names, kinds and sizes of the leaves of a model, packed or not."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qjax._typing import PyTree
from qjax.recipes.stored import is_stored


class Size(NamedTuple):
    """How much a model takes on disk.

    Attributes:
      packed: Bytes of packed tensors, scales included.
      arrays: Bytes of everything else.
      elements: Number of numbers.
    """

    packed: int
    arrays: int
    elements: int

    @property
    def bits_per_element(self) -> float:
        """Bits for each number of the model."""
        return 8 * (self.packed + self.arrays) / max(1, self.elements)


def size_of(variables: PyTree) -> Size:
    """What the variables of a model take on disk, in bytes."""
    packed = arrays = elements = 0
    for leaf in jax.tree.leaves(variables, is_leaf=is_stored):
        if is_stored(leaf):
            packed += leaf.nbytes
            elements += leaf.qvalue.size
        else:
            count = math.prod(jnp.shape(leaf))
            arrays += count * jnp.result_type(leaf).itemsize
            elements += count
    return Size(packed, arrays, elements)


def name_of(path: tuple[Any, ...]) -> str:
    """Name of a leaf, such as "params/Dense_0/kernel"."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def kind_of(leaf: Any) -> str:
    """Type and shape of a leaf, such as "mxfp4 64x10"."""
    if is_stored(leaf):
        name, shape = leaf.kind, leaf.qvalue.shape
    else:
        name, shape = jnp.result_type(leaf).name, jnp.shape(leaf)
    return f"{name} {'x'.join(map(str, shape)) or 'scalar'}"
