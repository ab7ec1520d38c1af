"""How a number between two neighbours chooses one: rules on the unit grid.

A rule sees magnitudes in units of the spacing at hand and returns whole numbers; `qjax.casting`
finds the spacing and keeps the sign. Noise is an argument, made by `noise` from a key and the
element's index, so that it depends neither on sharding nor on call order.
"""

import abc
import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from qjax._typing import Array, Key, Shape


@dataclasses.dataclass(frozen=True)
class Rounding(abc.ABC):
    """A rule that takes magnitudes to whole numbers.

    `directed` rules may move numbers however small away from zero; zero itself they leave.
    """

    stochastic: ClassVar[bool] = False
    directed: ClassVar[bool] = False

    def noise(self, key: Key, shape: Shape) -> Array:
        """Returns random words for an array of `shape`, where the rule is stochastic."""
        raise TypeError(f"{self!r} draws no random bits. Ask `Stochastic` for noise.")

    @abc.abstractmethod
    def __call__(self, units: Array, negative: Array, noise: Array | None) -> Array:
        """Returns `units` rounded to whole numbers.

        Args:
          units: Non-negative float32 magnitudes below 2**24.
          negative: Whether each element is negative.
          noise: Random 32-bit words as uint32 where the rule is stochastic, else None.
        """


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class NearestEven(Rounding):
    """Rounds to the nearest, ties to the even neighbour (IEEE 754's default)."""

    def __call__(self, units: Array, negative: Array, noise: Array | None = None) -> Array:
        return lax.round(units, lax.RoundingMethod.TO_NEAREST_EVEN)


NEAREST_EVEN = NearestEven()


def _above(units: Array) -> tuple[Array, Array]:
    """Returns the whole number below and the exact fraction above it."""
    below = jnp.floor(units)
    return below, units - below


def _step(condition: Array) -> Array:
    return condition.astype(jnp.float32)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class NearestAway(Rounding):
    """Rounds to the nearest, ties away from zero (the default of microxcaling's emulator)."""

    def __call__(self, units: Array, negative: Array, noise: Array | None = None) -> Array:
        below, part = _above(units)
        return below + _step(part >= 0.5)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class NearestZero(Rounding):
    """Rounds to the nearest, ties toward zero."""

    def __call__(self, units: Array, negative: Array, noise: Array | None = None) -> Array:
        below, part = _above(units)
        return below + _step(part > 0.5)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class NearestUp(Rounding):
    """Rounds to the nearest, ties toward positive infinity."""

    def __call__(self, units: Array, negative: Array, noise: Array | None = None) -> Array:
        below, part = _above(units)
        return below + _step((part > 0.5) | ((part == 0.5) & ~negative))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class NearestDown(Rounding):
    """Rounds to the nearest, ties toward negative infinity."""

    def __call__(self, units: Array, negative: Array, noise: Array | None = None) -> Array:
        below, part = _above(units)
        return below + _step((part > 0.5) | ((part == 0.5) & negative))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class TowardZero(Rounding):
    """Drops the fraction."""

    directed: ClassVar[bool] = True

    def __call__(self, units: Array, negative: Array, noise: Array | None = None) -> Array:
        return jnp.floor(units)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class AwayFromZero(Rounding):
    """Rounds any fraction up in magnitude."""

    directed: ClassVar[bool] = True

    def __call__(self, units: Array, negative: Array, noise: Array | None = None) -> Array:
        return jnp.ceil(units)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Floor(Rounding):
    """Rounds toward negative infinity."""

    directed: ClassVar[bool] = True

    def __call__(self, units: Array, negative: Array, noise: Array | None = None) -> Array:
        return jnp.where(negative, jnp.ceil(units), jnp.floor(units))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Ceil(Rounding):
    """Rounds toward positive infinity."""

    directed: ClassVar[bool] = True

    def __call__(self, units: Array, negative: Array, noise: Array | None = None) -> Array:
        return jnp.where(negative, jnp.floor(units), jnp.ceil(units))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class ToOdd(Rounding):
    """Rounds any fraction to the odd neighbour, so that a second rounding is as good as one."""

    directed: ClassVar[bool] = True

    def __call__(self, units: Array, negative: Array, noise: Array | None = None) -> Array:
        below, part = _above(units)
        even = below - 2 * jnp.floor(below * 0.5) == 0
        return below + _step(even & (part > 0))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Stochastic(Rounding):
    """Rounds up with the probability of the fraction, so that the mean is exact.

    Attributes:
      bits: Random bits per element, 1 to 24; None for 24. With few bits the probability is the
        fraction rounded to a multiple of `2**-bits`.
      shared: Axes along which all elements share one draw: cheaper in hardware, still unbiased,
        but their errors are correlated.
    """

    bits: int | None = None
    shared: tuple[int, ...] = dataclasses.field(default=(), kw_only=True)
    stochastic: ClassVar[bool] = True

    def __post_init__(self):
        if self.bits is not None and not 1 <= self.bits <= 24:
            raise ValueError(
                f"`Stochastic` was asked for bits={self.bits}. Give 1 to 24, or None for 24."
            )

    def noise(self, key: Key, shape: Shape) -> Array:
        """Returns random words for an array: hashes of the row-major index of each element."""
        word, second = key_words(key)
        shared = {self._axis(axis, len(shape)) for axis in self.shared}
        # The key enters the index before its last axis does, so that no array of indices is the
        # same at every step: a compiler would keep one in memory for each shape.
        for axis, size in enumerate(shape):
            if axis not in shared:
                stride = math.prod(shape[axis + 1 :]) & 0xFFFFFFFF
                place = lax.iota(jnp.uint32, size) * jnp.uint32(stride)
                word = word + place.reshape([-1 if i == axis else 1 for i in range(len(shape))])
        return jnp.broadcast_to(_mixed(word, second), shape)

    def _axis(self, axis: int, rank: int) -> int:
        if not -rank <= axis < rank:
            raise ValueError(
                f"{self!r} shares a draw along axis {axis}, but the array has {rank} dimension(s). "
                f"Give axes from {-rank} to {rank - 1}."
            )
        return axis % rank

    def __call__(self, units: Array, negative: Array, noise: Array | None = None) -> Array:
        assert noise is not None
        bits = 24 if self.bits is None else self.bits
        draw = (noise >> (32 - bits)).astype(jnp.int32)
        below, part = _above(units)
        if bits == 24:
            # The upper end of each interval: zero, and what is as good as zero, never moves.
            ends = draw.astype(jnp.float32) * jnp.float32(2.0**-24) + jnp.float32(2.0**-24)
            return below + _step(part >= ends)
        # With few bits the draws sit at the middle of their intervals: no bias towards zero.
        middles = draw.astype(jnp.float32) * jnp.float32(2.0**-bits) + jnp.float32(
            2.0 ** -(bits + 1)
        )
        return below + _step(part > middles)


def derived(key: Key, number: Any) -> Key:
    """Returns the key of one of several uses: that of `number` 0 is `key` itself.

    Words of noise are hashes of a key's bits, so that it is enough that these differ; a
    `jax.random.fold_in` costs a loop of its own in the compiled program.

    Args:
      key: Typed or raw JAX key.
      number: A whole number, or an array of two uint32 words for keys of any even length.
    """
    data = _data(key)
    words = jnp.asarray(number, jnp.uint32)
    if words.ndim and words.shape != data.shape:
        words = jnp.tile(words, data.shape[0] // 2)
    data = data ^ jnp.broadcast_to(words, data.shape)
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return data
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(key))


def key_words(key: Key) -> tuple[Array, Array]:
    """Returns two well mixed uint32 words of a typed or raw key.

    Raises:
      TypeError: If `key` is no JAX key.
    """
    data = _data(key)
    words = lax.slice(data, (0,), (2,))
    # Both words at once: each is mixed, then with the other.
    mixed = _mix(words + jnp.asarray([0x9E3779B9, 0x85EBCA6B], jnp.uint32))
    for i in range(2, data.shape[0]):
        mixed = _mix(mixed ^ _mix(data[i] + jnp.uint32(i)))
    mixed = _mix(mixed ^ (lax.rev(mixed, (0,)) * jnp.asarray([0xC2B2AE35, 0x27D4EB2F], jnp.uint32)))
    return mixed[0], mixed[1]


def _data(key: Key) -> Array:
    """Returns the uint32 words of a typed or raw key."""
    if not isinstance(key, jax.Array):
        raise TypeError(
            f"`key` must be a JAX key, but is {key!r}. Make one with `jax.random.key(seed)`."
        )
    data = jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key
    if data.dtype != jnp.uint32 or data.ndim != 1 or data.shape[0] < 2:
        raise TypeError(
            f"`key` must be one JAX key, but has dtype {key.dtype} and shape {key.shape}. "
            "Make one with `jax.random.key(seed)`; use `jax.vmap` for several."
        )
    return data


def noise(key: Key, index: Array) -> Array:
    """Returns one random uint32 word per element: a hash of the key and the element's index.

    Two multiply-xorshift rounds ("lowbias32" by C. Wellons), one key word before and one between
    them, so that the streams of two keys are neither shifted nor permuted copies of each other.

    Args:
      key: Typed or raw JAX key.
      index: uint32 indices of elements.
    """
    first, second = key_words(key)
    return _mixed(index + first, second)


def _mixed(word: Array, second: Array) -> Array:
    word = (word ^ (word >> 16)) * jnp.uint32(0x7FEB352D)
    word = word + second
    word = (word ^ (word >> 15)) * jnp.uint32(0x846CA68B)
    return word ^ (word >> 16)


def _mix(word: Any) -> Array:
    word = (word ^ (word >> 16)) * jnp.uint32(0x7FEB352D)
    word = (word ^ (word >> 15)) * jnp.uint32(0x846CA68B)
    return word ^ (word >> 16)
