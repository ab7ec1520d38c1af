"""Codes of 1 to 32 bits packed into bytes, and unpacked: little-endian, no gaps."""

import math

import jax
import jax.numpy as jnp

from qjax._typing import Array, Shape


def pack(codes: Array, width: int) -> Array:
    """Returns the codes as a flat stream of bytes, the first code in the lowest bits.

    Args:
      codes: Integers of any shape; their lowest `width` bits count.
      width: Bits per code, 1 to 32.

    Returns:
      uint8 array of `ceil(codes.size * width / 8)` elements.
    """
    flat = codes.ravel()
    if width in (8, 16, 32):
        return jax.lax.bitcast_convert_type(_unsigned(flat, width), jnp.uint8).ravel()
    flat = flat.astype(jnp.uint32) & jnp.uint32((1 << width) - 1)
    if 8 % width == 0:
        per = 8 // width
        flat = jnp.pad(flat, (0, -flat.size % per)).astype(jnp.uint8).reshape(-1, per)
        byte = flat[:, 0]
        for i in range(1, per):
            byte = byte | (flat[:, i] << jnp.uint8(i * width))
        return byte
    # Eight codes fill `width` bytes.
    flat = jnp.pad(flat, (0, -flat.size % 8))
    bits = (flat[:, None] >> jnp.arange(width, dtype=jnp.uint32)) & jnp.uint32(1)
    weights = jnp.uint32(1) << jnp.arange(8, dtype=jnp.uint32)
    stream = jnp.sum(bits.reshape(-1, 8) * weights, axis=1).astype(jnp.uint8)
    return stream[: -(-codes.size * width // 8)]


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
    dtype = jnp.uint8 if width <= 8 else jnp.uint16 if width <= 16 else jnp.uint32
    if width in (8, 16, 32):
        wide = stream if width == 8 else stream.reshape(-1, width // 8)
        return jax.lax.bitcast_convert_type(wide, dtype).reshape(shape)
    bits = (stream[:, None] >> jnp.arange(8, dtype=jnp.uint8)) & jnp.uint8(1)
    bits = bits.ravel()[: count * width].reshape(count, width).astype(jnp.uint32)
    weights = jnp.uint32(1) << jnp.arange(width, dtype=jnp.uint32)
    return jnp.sum(bits * weights, axis=1).astype(dtype).reshape(shape)


def _unsigned(codes: Array, width: int) -> Array:
    dtype = {8: jnp.uint8, 16: jnp.uint16, 32: jnp.uint32}[width]
    if codes.dtype.itemsize * 8 == width:
        return codes if codes.dtype == dtype else jax.lax.bitcast_convert_type(codes, dtype)
    return codes.astype(dtype)
