"""What a cast did to a tensor: noise, saturation, underflow, and histograms. All functions jit."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from qjax._typing import Array
from qjax.formats import Choice, split
from qjax.qtensor import QTensor


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Summary:
    """Facts about one cast, float32 scalars.

    Attributes:
      sqnr: Signal to quantization-noise ratio in decibels.
      saturated: Fraction of elements at the largest magnitude of their tile's range, or beyond.
      underflowed: Fraction of elements that became zero without being zero.
      zeros: Fraction of elements that are zero (of either sign) after the cast.
    """

    sqnr: Array
    saturated: Array
    underflowed: Array
    zeros: Array


def sqnr(x: Array, values: Array) -> Array:
    """Returns the signal to quantization-noise ratio in decibels, infinite for no noise.

    Args:
      x: The tensor.
      values: What became of it, of the same shape.
    """
    x, values = x.astype(jnp.float32), values.astype(jnp.float32)
    # Powers are taken relative to the largest element, so that no square over- or underflows.
    top = jnp.max(jnp.abs(x), initial=0)
    unit = jnp.where(top > 0, top, 1)
    signal = jnp.mean((x / unit) ** 2)
    noise = jnp.mean(((values - x) / unit) ** 2)
    return jnp.where(noise > 0, 10 * jnp.log10(signal / jnp.where(noise > 0, noise, 1)), jnp.inf)


def wasserstein(x: Array, values: Array) -> Array:
    """Returns how far the distributions of two tensors lie apart: the mean move of sorted values.

    The first Wasserstein distance of the two sets of elements, in their unit; where each element
    is cast on its own it is at most the mean error, and less where errors cancel in distribution.

    Args:
      x: The tensor.
      values: What became of it, with as many elements.

    References:
      Harma et al., "Accuracy Booster", arXiv:2211.10737, compares layers and epochs by it.
    """
    x, values = x.astype(jnp.float32).ravel(), values.astype(jnp.float32).ravel()
    return jnp.mean(jnp.abs(jnp.sort(x) - jnp.sort(values)))


def underflowed(x: Array, values: Array) -> Array:
    """Returns the fraction of elements that became zero without being zero."""
    return jnp.mean(lost(x, values).astype(jnp.float32))


def lost(x: Array, values: Array) -> Array:
    """Returns which elements became zero without being zero."""
    # Bits are compared, for a processor may read subnormals as zero.
    return (split(values)[1] == 0) & (split(x)[1] != 0)


def zeros(values: Array) -> Array:
    """Returns the fraction of elements that are zero; -0 is zero."""
    return jnp.mean((split(values)[1] == 0).astype(jnp.float32))


def beyond(x: Array, tensor: QTensor) -> Array:
    """Returns which elements' magnitudes exceed the largest of their tile's range.

    Args:
      x: The tensor that was encoded.
      tensor: What became of it.
    """
    format = tensor.qtype.format
    stored = dataclasses.replace(tensor, dtype="float32")
    values = stored.decode()
    limit = format.max
    if isinstance(format, Choice):  # each table has its own
        choice = format.part(tensor.qvalue)[1]
        limit = jnp.stack([jnp.float32(table.max) for table in format.tables])[choice]
    at_limit = jnp.abs(format.load(tensor.qvalue)) >= limit
    # A largest element that defines its scale may exceed the range by the scale's own rounding.
    return at_limit & (jnp.abs(x.astype(jnp.float32)) > jnp.abs(values) * (1 + 2.0**-20))


def saturated(x: Array, tensor: QTensor) -> Array:
    """Returns the fraction of elements that are `beyond`; arguments as there."""
    return jnp.mean(beyond(x, tensor).astype(jnp.float32))


def summarize(x: Array, tensor: QTensor) -> Summary:
    """Returns all of the above for a tensor and its encoding."""
    values = tensor.decode(jnp.float32)
    return Summary(sqnr(x, values), saturated(x, tensor), underflowed(x, values), zeros(values))


def scale_histogram(tensor: QTensor, low: int = -127, high: int = 127) -> Array:
    """Returns how many scales have each exponent `floor(log2(scale))`, from `low` to `high`.

    Raises:
      ValueError: If the tensor has no scale.
    """
    if tensor.scale is None:
        raise ValueError(
            f"`scale_histogram` was asked of a tensor of type {tensor.qtype.name}, which has no "
            "scale. Ask it of scaled types."
        )
    scales = tensor.scale.decode(jnp.float32).ravel()
    exponent = (split(scales)[2] >> 23) - 127
    return _count(jnp.clip(exponent, low, high) - low, high - low + 1)


def code_histogram(tensor: QTensor) -> Array:
    """Returns how often each code occurs, `2**width` counts (of at most 16 bits).

    Integers count from their most negative code; others by their unsigned bits. Where tiles choose
    among tables, these are the indices into whichever was chosen.
    """
    format = tensor.qtype.format
    if format.width > 16:
        raise ValueError(
            f"`code_histogram` was asked of {format.width}-bit codes. Ask it of at most 16 bits."
        )
    if isinstance(format, Choice):
        return _count(format.part(tensor.qvalue)[0].ravel(), 1 << format.width)
    codes: Any = format.encode(format.load(tensor.qvalue)).astype(jnp.int32)
    if jnp.issubdtype(format.code_dtype, jnp.signedinteger):
        codes = codes + (1 << (format.width - 1))
    return _count(codes.ravel(), 1 << format.width)


def _count(index: Array, length: int) -> Array:
    return jnp.zeros(length, jnp.int32).at[index].add(1)
