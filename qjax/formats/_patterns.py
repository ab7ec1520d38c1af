"""float32 bit patterns as integers, continued below the smallest normal number.

An *extended pattern* is the int32 `((exponent + 127) << 23) + fraction` of a magnitude. Where
float32 is normal it is float32's own pattern; below, it simply goes on, so that magnitudes
compare, shift and carry as integers and no subnormal ever enters a floating-point operation.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qjax._typing import Array

# One step of a float32's exponent field, and the pattern of 1.
STEP = 1 << 23
ONE = 127 << 23
SIGN = -(1 << 31)
INFINITY = 0x7F800000
NAN = 0x7FC00000


def value_of(bits: Any) -> Any:
    """Returns the value of an extended bit pattern: exact for Python ints."""
    if isinstance(bits, int):
        exponent, fraction = bits >> 23, bits & (STEP - 1)
        return float(np.ldexp(1.0 + fraction / STEP, exponent - 127))
    return jax.lax.bitcast_convert_type(jnp.asarray(bits, jnp.int32), jnp.float32)


def select(condition: Array, one: Any, other: Any) -> Array:
    """Returns what `jnp.where` does, in one operation where its arguments need no more.

    `jnp.where` is a function of its own in every program. Casts are in a program many times, and
    compilers look at each.
    """
    arrays = [x for x in (one, other) if not isinstance(x, int | float)]
    like = arrays[0] if arrays else condition
    alike = {jnp.result_type(x) for x in arrays} == {like.dtype}
    if not alike or len({_place(x) for x in (condition, *arrays)}) > 1:
        return jnp.where(condition, one, other)
    fraction = isinstance(one, float) or isinstance(other, float)
    if fraction and not jnp.issubdtype(like.dtype, jnp.inexact):
        return jnp.where(condition, one, other)
    one, other = (
        jax.lax.full_like(like, x) if isinstance(x, int | float) else x for x in (one, other)
    )
    return jax.lax.select(condition, one, other)


def _place(x: Any) -> tuple:
    kind = jax.typeof(x)
    return kind.shape, kind.sharding


def wrapped(word: int) -> int:
    """Returns the int32 with the bits of a 32-bit word."""
    return word - (1 << 32) if word >> 31 else word


def extended(magnitude: Array) -> Array:
    """Returns extended patterns of float32 magnitude bits: subnormals are normalised.

    A processor that flushes subnormals sees none.
    """
    # With the exponent of one put before it, a subnormal is a fraction of 2**-126 above one. Zero
    # becomes 2**-253, which rounds to zero on every grid.
    fraction = jax.lax.bitcast_convert_type(magnitude + ONE, jnp.float32) - 1.0
    normal = jax.lax.bitcast_convert_type(fraction, jnp.int32) - (126 << 23)
    return select(magnitude < STEP, normal, magnitude)


def compressed(bits: Array) -> Array:
    """Returns float32 magnitude bits of extended patterns on float32's grid: the inverse."""
    units = jnp.clip(bits, -(23 << 23), STEP) + (149 << 23)
    small = jax.lax.bitcast_convert_type(units, jnp.float32).astype(jnp.int32)
    return select(bits < STEP, small, bits)


def split(x: Array, shallow: bool = False) -> tuple[Array, Array, Array]:
    """Returns signs, magnitudes and extended magnitudes of `x`, all int32.

    Args:
      x: Array of floats.
      shallow: Whether extended patterns may be wrong below float32's smallest normal.

    Returns:
      The sign bits in place; the bits of the float32 magnitude (0 only for zero, above those of
      infinity only for NaN); the extended pattern. A float64 keeps a sticky last bit, so that
      rounding the pattern to at most 21 bits after the first is rounding the float64.
    """
    if x.dtype == jnp.float64:
        return _split_float64(x)
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.int32)
    size = bits & 0x7FFFFFFF
    return bits & SIGN, size, size if shallow else extended(size)


def _split_float64(x: Array) -> tuple[Array, Array, Array]:
    bits = jax.lax.bitcast_convert_type(x, jnp.int64)
    size = bits & 0x7FFFFFFFFFFFFFFF
    sticky = ((size & ((1 << 29) - 1)) != 0).astype(jnp.int64)
    pattern = ((size >> 29) | sticky) - ((1023 - 127) << 23)
    pattern = jnp.clip(pattern, -(24 << 23), 255 << 23).astype(jnp.int32)
    coarse = jnp.where(size == 0, 0, jnp.maximum(pattern, 1))
    coarse = jnp.where(jnp.isnan(x), NAN, coarse)
    return jnp.where(bits < 0, SIGN, 0).astype(jnp.int32), coarse, pattern
