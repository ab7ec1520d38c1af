"""The stored thing: codes, scales, and the type that says how to read them."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from qjax import casting
from qjax._typing import Array, DTypeLike, Shape
from qjax.formats import PowerOfTwo
from qjax.qtensor import _shape, _sparse
from qjax.qtypes import QType
from qjax.tiling import Layout


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class QTensor:
    """A quantized tensor: `(qvalue - zero_point) * scale`, read through its formats.

    The type is part of the structure of the pytree, and none of its leaves: JAX refuses to mix
    tensors of two types. What compares leaves by name, shape and dtype alone takes the codes of one
    type for those of another of the same dtype. So does Orbax when it restores into a tensor:
    write such files by `qjax.serving.save` or `qjax.train.Checkpoints`, which keep types, compare
    them and refuse others.

    Attributes:
      qvalue: Codes in the shape of the tensor, as an array of `qtype.format.storage`; elements
        that the type's sparsity does not keep have the code of zero.
      scale: The quantized scales, one per tile, or None.
      zero_point: The quantized zero points, or None.
      qtype: What is stored.
      layout: Where the tiles lie.
      dtype: The dtype that `decode` returns by default.
      basis: Name of the map along the contracted axes that the values went through before they
        were encoded; empty where there was none. `decode` gives mapped values.
    """

    qvalue: Array
    scale: "QTensor | None"
    zero_point: "QTensor | None"
    qtype: QType = dataclasses.field(metadata={"static": True})
    layout: Layout = dataclasses.field(metadata={"static": True})
    dtype: str = dataclasses.field(default="float32", metadata={"static": True})
    basis: str = dataclasses.field(default="", kw_only=True, metadata={"static": True})

    @property
    def shape(self) -> Shape:
        """Shape of the tensor."""
        return self.layout.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def decode(self, dtype: DTypeLike | None = None) -> Array:
        """Returns the values: products with the scale in float32, one conversion to `dtype`.

        Args:
          dtype: Of the result; that of the encoded array by default.

        Raises:
          ValueError: If the codes have other axes than the layout, as after `jax.vmap`.
        """
        if self.qvalue.shape != self.shape:
            raise ValueError(
                f"`decode` was asked of codes of shape {self.qvalue.shape}, but the layout is of "
                f"shape {self.shape}. Decode inside `jax.vmap`, where the batch was encoded."
            )
        return _decode(self, jnp.dtype(self.dtype if dtype is None else dtype))

    def _values(self) -> Array:
        values = self.qtype.format.load(self.qvalue)
        if self.zero_point is not None:
            values = values - self.layout.spread(self.zero_point._values())
        return values if self.scale is None else self._scaled(values, self.scale)

    def _scaled(self, values: Array, scale: "QTensor") -> Array:
        """Returns values times their scales, level by level, innermost first."""
        layout, level = [self.layout], scale
        while True:
            factor, product = level.qtype.format.load(level.qvalue), None
            if isinstance(level.qtype.format, PowerOfTwo):
                exponent = exponents(level)
                product = casting.times_power(values, spread_all(exponent, layout))
            factor = spread_all(factor, layout)
            plain = values * factor
            if product is not None:
                # With zeros of the values', which may lie on devices where no factor does.
                plain = jnp.where(jnp.isnan(factor + jnp.zeros_like(plain)), plain, product)
            values = plain
            if level.scale is None:
                return values
            layout.append(level.layout)
            level = level.scale

    @property
    def kind(self) -> str:
        """Name of the type, and what the values went through before, for messages."""
        return f"{self.qtype.name} after {self.basis}" if self.basis else self.qtype.name

    @property
    def T(self) -> "QTensor":
        """The tensor with its axes in reverse order."""
        return self.transpose()

    def transpose(self, *axes: Any) -> "QTensor":
        """Returns the tensor with its axes permuted, reversed by default."""
        if len(axes) == 1 and isinstance(axes[0], tuple | list):
            axes = tuple(axes[0])
        return _shape.transpose(self, axes or tuple(reversed(range(self.ndim))))

    def reshape(self, *shape: Any) -> "QTensor":
        """Returns the tensor in another shape where no tile is cut.

        Raises:
          ValueError: If a tile would be cut or the number of elements differs.
        """
        if len(shape) == 1 and isinstance(shape[0], tuple | list):
            shape = tuple(shape[0])
        return _shape.reshape(self, shape)

    def __jax_array__(self) -> Array:
        """Refused: what takes it for an array would decode it without being asked to.

        Raises:
          TypeError: Always.
        """
        raise TypeError(
            f"{self!r} was used as an array. Decode it with `decode()`; packed weights run in the "
            "model that `qjax.quantize` gives for the recipe that they were packed by."
        )

    def __getitem__(self, key: Any) -> "QTensor":
        """Returns the part that integers and slices select; slices take whole tiles.

        `...` stands for the axes that are left out, and None for a new one.

        Raises:
          ValueError: If a tile would be cut, or something else is in `key`, such as an array.
          IndexError: If an integer is out of range.
        """
        return _shape.index(self, key)

    @property
    def nbytes(self) -> int:
        """Bytes of all codes, packed, and of all scales and zero points, as files hold them."""
        own = -(-self._codes * self.qtype.format.width // 8)
        own += 0 if self.qtype.sparsity is None else -(-self.qvalue.size // 8)
        own += -(-self._tiles * self.qtype.format.tile_bits // 8)
        return own + sum(p.nbytes for p in (self.scale, self.zero_point) if p is not None)

    @property
    def bits_per_element(self) -> float:
        """Bits of everything stored per element of this very tensor."""
        parts = [p for p in (self.scale, self.zero_point) if p is not None]
        shared = sum(part.bits_per_element * part.qvalue.size for part in parts)
        shared += self._tiles * self.qtype.format.tile_bits
        if self.qtype.sparsity is None:
            return self.qtype.format.width + shared / max(1, self.qvalue.size)
        shared += self._codes * self.qtype.format.width
        return 1 + shared / max(1, self.qvalue.size)

    @property
    def _tiles(self) -> int:
        """Number of tiles, in a stack those of all its tensors."""
        return self._stacked * math.prod(self.layout.scale_shape)

    @property
    def _codes(self) -> int:
        """Number of codes that are stored, in a stack those of all its tensors."""
        sparsity = self.qtype.sparsity
        if sparsity is None:
            return self.qvalue.size
        return self._stacked * _sparse.count(sparsity, self.layout)

    @property
    def _stacked(self) -> int:
        return self.qvalue.size // max(1, math.prod(self.shape))

    def __repr__(self) -> str:
        shape = "x".join(str(n) for n in self.shape) or "scalar"
        return f"QTensor({self.kind}, {shape}, {self.dtype})"


def spread_all(numbers: Array, layouts: list[Layout]) -> Array:
    """Returns one number per element from one per tile of tiles, outermost layout last."""
    for layout in reversed(layouts):
        numbers = layout.spread(numbers)
    return numbers


def factors(scale: QTensor) -> tuple[Array, ...]:
    """Returns the float32 numbers of a scale and of its own scales, one per element of it each."""
    found, layouts, level = [], [], scale
    while True:
        numbers = level.qtype.format.load(level.qvalue)
        found.append(spread_all(numbers, layouts) if layouts else numbers)
        if level.scale is None:
            return tuple(found)
        layouts.append(level.layout)
        level = level.scale


def exponents(scale: QTensor) -> Array:
    """Returns the int32 exponents of stored powers of two."""
    format = scale.qtype.format
    assert isinstance(format, PowerOfTwo)
    return scale.qvalue.astype(jnp.int32) - format.bias


@functools.partial(jax.jit, static_argnames="dtype")
def _decode(tensor: QTensor, dtype: Any) -> Array:
    return casting.converted(tensor._values(), dtype)


def plain(values: Any, qtype: QType, layout: Layout, dtype: str = "float32") -> QTensor:
    """Returns a tensor without scale whose `values` are on the grid of its format."""
    return QTensor(qtype.format.store(values), None, None, qtype, layout, dtype)
