"""Codes of 1 to 32 bits packed into bytes, and unpacked: little-endian, no gaps."""

import functools
import math

import jax
import jax.numpy as jnp

from qjax._typing import Array, Shape


@functools.partial(jax.jit, static_argnames="width")
def pack(codes: Array, width: int) -> Array:
    """Returns the codes as a flat stream of bytes, the first code in the lowest bits.

    Args:
      codes: Integers of any shape; their lowest `width` bits count.
      width: Bits per code, 0 to 32; codes of no bits are all zero.

    Returns:
      uint8 array of `ceil(codes.size * width / 8)` elements.
    """
    flat = codes.ravel()
    if width == 0:
        return jnp.zeros(0, jnp.uint8)
    if width in (8, 16, 32):
        return jax.lax.bitcast_convert_type(_unsigned(flat, width), jnp.uint8).ravel()
    if 8 % width == 0:
        return _pairs_joined(flat.astype(jnp.uint8) & jnp.uint8((1 << width) - 1), width)
    # Eight codes fill `width` bytes.
    flat = flat.astype(jnp.uint32) & jnp.uint32((1 << width) - 1)
    groups = jnp.pad(flat, (0, -flat.size % 8)).reshape(-1, 8)
    stream = jnp.stack([_byte(groups, i, width) for i in range(width)], axis=1).ravel()
    return stream[: -(-codes.size * width // 8)]


def _pairs_joined(codes: Array, width: int) -> Array:
    """Returns bytes of codes of 1, 2 or 4 bits, each in a byte: neighbours are joined until full.

    Two neighbours are read as one word of 16 bits, so that no step moves single bytes.
    """
    codes = jnp.pad(codes, (0, -codes.size % (8 // width)))
    while width < 8:
        words = jax.lax.bitcast_convert_type(codes.reshape(-1, 2), jnp.uint16)
        codes = (words | (words >> (8 - width))).astype(jnp.uint8)
        width *= 2
    return codes


def _byte(groups: Array, index: int, width: int) -> Array:
    """Returns byte `index` of every group of eight codes, uint32 of shape (N, 8), as uint8."""
    byte = jnp.zeros(groups.shape[:1], jnp.uint32)
    for code in range(8 * index // width, -(-8 * (index + 1) // width)):
        start = code * width - 8 * index
        column = groups[:, code]
        byte = byte | (column << start if start >= 0 else column >> -start)
    return byte.astype(jnp.uint8)


def unpack(stream: Array, width: int, shape: Shape) -> Array:
    """Returns the codes of a packed stream, in the smallest unsigned dtype that holds them.

    Raises:
      ValueError: If the stream has another length than `shape` and `width` need.
    """
    count = math.prod(shape)
    needed = -(-count * width // 8)
    if stream.size != needed:
        raise ValueError(
            f"`unpack` was asked for {count} codes of {width} bits, {needed} bytes, but the "
            f"stream has {stream.size}. Give the whole stream and its own width and shape."
        )
    return _unpacked(stream, width, tuple(shape))


@functools.partial(jax.jit, static_argnames=("width", "shape"))
def _unpacked(stream: Array, width: int, shape: Shape) -> Array:
    count = math.prod(shape)
    if width == 0:
        return jnp.zeros(shape, jnp.uint8)
    dtype = jnp.uint8 if width <= 8 else jnp.uint16 if width <= 16 else jnp.uint32
    if width in (8, 16, 32):
        wide = stream if width == 8 else stream.reshape(-1, width // 8)
        return jax.lax.bitcast_convert_type(wide, dtype).reshape(shape)
    if 8 % width == 0:
        return _halves(stream, width)[:count].reshape(shape)
    bits = (stream[:, None] >> jnp.arange(8, dtype=jnp.uint8)) & jnp.uint8(1)
    bits = bits.ravel()[: count * width].reshape(count, width).astype(jnp.uint32)
    weights = jnp.uint32(1) << jnp.arange(width, dtype=jnp.uint32)
    return jnp.sum(bits * weights, axis=1).astype(dtype).reshape(shape)


def _halves(stream: Array, width: int) -> Array:
    """Returns codes of 1, 2 or 4 bits, each in a byte: the inverse of `_pairs_joined`."""
    held = 8
    while held > width:
        held //= 2
        words = stream.astype(jnp.uint16)
        low = jnp.uint16((1 << held) - 1)
        words = (words & low) | ((words >> held) << 8)
        stream = jax.lax.bitcast_convert_type(words, jnp.uint8).ravel()
    return stream


def _unsigned(codes: Array, width: int) -> Array:
    dtype = {8: jnp.uint8, 16: jnp.uint16, 32: jnp.uint32}[width]
    if codes.dtype.itemsize * 8 == width:
        return codes if codes.dtype == dtype else jax.lax.bitcast_convert_type(codes, dtype)
    return codes.astype(dtype)
