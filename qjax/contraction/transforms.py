"""Maps of both operands of a product that cancel in it: `(x A) . (w A^-T) == x . w`.

They run along the last axis of an array, or along another one as `mapped` says, and
change nothing but what the quantizers see: outliers are spread (`Hadamard`), moved to the operand
that bears them better (`Smoothing`), or gathered into tiles of their own (`Permutation`). Nothing
is quantized here, and no operation is known by name.
"""

import abc
import dataclasses
import functools
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from qjax import tiling
from qjax._typing import Array

# Blocks are transformed in factors of this size, each in one pass over memory.
FACTOR = 4


class Transform(abc.ABC):
    """A pair of linear maps of arrays `(..., n)`, along their last axis, that cancel."""

    def measure(self, lhs: Array, rhs: Array) -> Any:
        """What both maps depend on, from the operands as `(..., n)` float arrays."""
        del lhs, rhs
        return ()

    @abc.abstractmethod
    def first(self, x: Array, measured: Any) -> Array:
        """The map of the first operand."""

    @abc.abstractmethod
    def second(self, x: Array, measured: Any) -> Array:
        """The map of the second operand: the inverse of the transpose of `first`."""

    def mapped(self, side: int, x: Array, measured: Any, axis: int) -> Array:
        """The map of the first (0) or second (1) operand along any axis (not negative).

        Here that axis is turned to be the last one and back, which copies. A transform that can
        work along an axis where it lies does so, with the same bits.
        """
        function = (self.first, self.second)[side]
        return jnp.moveaxis(function(jnp.moveaxis(x, axis, -1), measured), -1, axis)

    def flipped(self) -> "Transform":
        """The transform for operands in the other order."""
        return self

    def basis(self, side: int) -> str | None:
        """Name of the map of the first (0) or second (1) operand, the same for equal maps alone.

        None where the map follows from the operands at hand, so that none can be mapped before
        the other is there. A packed tensor bears the name of what its values went through.
        """
        del side
        return None


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Hadamard(Transform):
    """A Walsh-Hadamard transform of blocks of the contracted axis.

    Sylvester's matrix. What is left after the last whole block is transformed in the largest
    blocks that fit it (13 elements as 8 + 4 + 1), so that every length keeps its shape and the two
    operands cancel, rounding apart.

    Attributes:
      block: Elements of a block, a power of two; None is the largest power of two that divides
        the contracted length.
      seed: Seed of random signs that the elements of every block are multiplied by first, the
        same in all blocks; None multiplies by nothing.
      orthonormal: Whether both operands are scaled by `1/sqrt(block)`. Otherwise the first is not
        scaled and the second is by `1/block`: integers stay integers in the first.

    Raises:
      ValueError: If `block` is no power of two.

    References:
      Chee et al. 2023, "QuIP" (arXiv 2307.13304) for random signs; Xi et al. 2023, "Training
      Transformers with 4-bit Integers" (arXiv 2306.11987) for blocks.
    """

    block: int | None = None
    seed: int | None = dataclasses.field(default=None, kw_only=True)
    orthonormal: bool = dataclasses.field(default=True, kw_only=True)

    def __post_init__(self):
        block = self.block
        if block is not None and (not isinstance(block, int) or block < 1 or block & (block - 1)):
            raise ValueError(
                f"`Hadamard` was asked for block={block!r}. Give a power of two, or None for the "
                "largest that divides the contracted length."
            )

    def first(self, x: Array, measured: Any = ()) -> Array:
        """The transform of the first operand."""
        return self.mapped(0, x, measured, x.ndim - 1)

    def second(self, x: Array, measured: Any = ()) -> Array:
        """The transform of the second operand."""
        return self.mapped(1, x, measured, x.ndim - 1)

    def mapped(self, side: int, x: Array, measured: Any, axis: int) -> Array:
        """The transform along any axis, which stays where it lies.

        Raises:
          ValueError: If an explicit mesh cuts blocks.
        """
        del measured
        power = 0.5 if self.orthonormal else float(side)
        n = x.shape[axis]
        block = self.block or max(1, n & -n)
        parts, start = [], 0
        while start < n:
            size = min(block, 1 << ((n - start).bit_length() - 1))
            stop = n - (n - start) % size
            if (stop - start) // size % tiling.shards(x, axis):
                raise tiling.blocks_cut(x, axis, size, "Blocks of `Hadamard`")
            part = jax.lax.slice_in_dim(x, start, stop, axis=axis)
            parts.append(self._blocks(part, size, power, axis))
            start = stop
        if len(parts) == 1:
            return parts[0]
        return jnp.concatenate([jax.lax.slice_in_dim(x, 0, 0, axis=axis), *parts], axis)

    def _blocks(self, x: Array, size: int, power: float, axis: int) -> Array:
        """The transform of a length that is a multiple of `size`, in blocks of it."""
        before, after = x.shape[:axis], x.shape[axis + 1 :]
        blocks = x.reshape(*before, x.shape[axis] // size, size, *after)
        if self.seed is not None:
            signs = _signs(self.seed, size).reshape(size, *(1 for _ in after))
            blocks = blocks * jnp.asarray(signs, x.dtype)
        scaled = walsh_hadamard(blocks, axis + 1) * jnp.asarray(size**-power, x.dtype)
        return scaled.reshape(x.shape)

    def basis(self, side: int) -> str:
        """What it is called; the sides differ where it is not orthonormal."""
        return f"{self!r}{'' if self.orthonormal else _SIDES[side]}"


_SIDES = (" of the first operand", " of the second operand")


def _digest(numbers: Any) -> str:
    """Tells arrays apart that are too long to be written."""
    return hashlib.sha256(np.asarray(numbers).tobytes()).hexdigest()[:12]


@functools.lru_cache(maxsize=64)
def _signs(seed: int, size: int) -> np.ndarray:
    # RandomState is the generator whose draws NumPy promises never to change.
    return 1.0 - 2.0 * np.random.RandomState(seed).randint(0, 2, size)


def walsh_hadamard(x: Array, axis: int = -1) -> Array:
    """The Walsh-Hadamard transform along an axis whose length is a power of two.

    In Sylvester's order and without a factor: applied twice it gives the length times its argument.

    The sums are written out, because those of a matrix product come in an order that hangs on
    shapes, layouts and devices: a weight that is transformed once, to be stored, must be to the
    bit what a program that runs makes of it.
    """
    shape, axis, stride = x.shape, range(x.ndim)[axis], 1
    n, after = shape[axis], shape[axis + 1 :]
    while stride < n:
        factor = min(FACTOR, n // stride)
        x = x.reshape(*shape[:axis], n // (stride * factor), factor, stride, *after)
        parts = [jax.lax.slice_in_dim(x, i, i + 1, axis=axis + 1) for i in range(factor)]
        x = jnp.concatenate(_butterfly(parts), axis + 1).reshape(shape)
        stride *= factor
    return x


def _butterfly(parts: list[Array]) -> list[Array]:
    """The transform of a list, whose length is a power of two: two parts at a time."""
    bit = 1
    while bit < len(parts):
        low = [parts[i & ~bit] for i in range(len(parts))]
        parts = [x - parts[i] if i & bit else x + parts[i | bit] for i, x in enumerate(low)]
        bit *= 2
    return parts


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Smoothing(Transform):
    """Divides the first operand by one scale per contracted channel and multiplies the second.

    Attributes:
      alpha: Share of the difficulty that moves from the first operand to the second, where the
        scales come from the operands at hand: `max|lhs|**alpha / max|rhs|**(1 - alpha)` of each
        channel. A channel in which either is zero is left as it is.
      scales: The scales, found beforehand: `n` positive numbers, a tuple or an array.

    References:
      Xiao et al. 2022, "SmoothQuant" (arXiv 2211.10438), equation 4.
    """

    alpha: Any = 0.5
    scales: Any = dataclasses.field(default=None, kw_only=True)

    def measure(self, lhs: Array, rhs: Array) -> Array:
        """The scales, `(n,)`."""
        if self.scales is not None:
            scales = jnp.asarray(self.scales, lhs.dtype)
            if scales.shape != lhs.shape[-1:]:
                raise ValueError(
                    f"`Smoothing.scales` holds numbers of shape {scales.shape}, but "
                    f"{lhs.shape[-1]} channels are contracted. Give one for each of them."
                )
            return scales
        tops = [jnp.max(jnp.abs(x), axis=tuple(range(x.ndim - 1)), initial=0.0) for x in (lhs, rhs)]
        alpha = jnp.asarray(self.alpha, lhs.dtype)
        used = (tops[0] > 0) & (tops[1] > 0)
        low, high = (jnp.where(used, top, 1) for top in tops)
        return jnp.where(used, low**alpha / high ** (1 - alpha), 1)

    def first(self, x: Array, measured: Any) -> Array:
        """The first operand divided by the scales."""
        return x / measured

    def second(self, x: Array, measured: Any) -> Array:
        """The second operand multiplied by the scales."""
        return x * measured

    def flipped(self) -> "Smoothing":
        """The transform for operands in the other order."""
        if self.scales is None:
            return dataclasses.replace(self, alpha=1 - self.alpha)
        scales = self.scales
        if isinstance(scales, tuple):
            return dataclasses.replace(self, scales=tuple(1 / s for s in scales))
        with jax.ensure_compile_time_eval():  # Numbers that are known stay so while tracing.
            return dataclasses.replace(self, scales=1 / scales)

    def basis(self, side: int) -> str | None:
        """The number of scales and a digest of them; None where they are found or traced."""
        if self.scales is None or any(isinstance(s, Tracer) for s in jax.tree.leaves(self.scales)):
            return None
        scales = np.asarray(self.scales, np.float32)
        return f"Smoothing({scales.size} scales, sha256 {_digest(scales)}){_SIDES[side]}"


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Permutation(Transform):
    """Reorders the contracted channels, so that tiles hold channels of like magnitude.

    Attributes:
      order: Where each channel comes from: a permutation of `0 .. n-1`. None sorts the channels
        by the largest magnitude of the first operand, descending.
    """

    order: tuple[int, ...] | None = None

    def __post_init__(self):
        if self.order is None:
            return
        object.__setattr__(self, "order", tuple(int(i) for i in self.order))
        if sorted(self.order) != list(range(len(self.order))):
            raise ValueError(
                f"`Permutation.order` must name each of {len(self.order)} channels once, but "
                f"{self.order!r} came. Give for instance `tuple(np.argsort(magnitudes))`."
            )

    def measure(self, lhs: Array, rhs: Array) -> Array:
        """The indices, `(n,)`."""
        del rhs
        if self.order is None:
            return jnp.argsort(-jnp.max(jnp.abs(lhs), axis=tuple(range(lhs.ndim - 1)), initial=0.0))
        if len(self.order) != lhs.shape[-1]:
            raise ValueError(
                f"`Permutation.order` names {len(self.order)} channels, but {lhs.shape[-1]} are "
                "contracted. Give one place for each of them."
            )
        return jnp.asarray(self.order)

    def first(self, x: Array, measured: Any) -> Array:
        """The first operand, its channels in order."""
        return jnp.take(x, measured, axis=-1)

    def basis(self, side: int) -> str | None:
        """The number of channels and a digest of their order; None where it is found."""
        if self.order is None:
            return None
        return f"Permutation({len(self.order)} channels, sha256 {_digest(self.order)})"

    def second(self, x: Array, measured: Any) -> Array:
        """The second operand, its channels in order."""
        return jnp.take(x, measured, axis=-1)
