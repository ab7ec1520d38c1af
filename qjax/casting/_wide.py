"""float64 onto grids nearly as fine as float32's, whose halves a float32 pattern cannot hold."""

from typing import Any

import jax.numpy as jnp
from jax import lax

from qjax._typing import Array
from qjax.formats import STEP, Grid

# Of more digits than these a pattern holds no half and whether more follows.
DIGITS = 21


def needed(x: Array, grid: Grid) -> bool:
    """Whether the patterns of `x` may hold too few digits to be rounded once to a grid."""
    known = isinstance(grid.mantissa_bits, int) and grid.mantissa_bits <= DIGITS
    return x.dtype == jnp.float64 and not known


def units(
    x: Array, units: Array, ulp: Any, ordered: Array, clipped: Array, limit: Any
) -> tuple[Array, Array]:
    """Returns magnitudes in units of the spacing: an even whole number and a float32 above it.

    Args:
      x: float64 values.
      units: The same from their patterns, right where these were clipped to an end.
      ulp: Extended patterns of the spacing.
      ordered: Extended patterns of `x`.
      clipped: Those within the ends of the grid.
      limit: Extended patterns of the largest magnitude, None where what is beyond overflows.
    """
    size = jnp.abs(x)
    inside = (clipped == ordered) & (ordered > -24 * STEP) & (ordered < 255 * STEP)
    if limit is not None:  # which a little more may have the pattern of
        inside &= size <= _value(limit)
    exact = jnp.where(inside, size / _value(ulp), units.astype(jnp.float64))
    whole = 2 * jnp.floor(exact / 2)
    below = jnp.floor(exact)
    part = short(exact - below) + (below - whole).astype(jnp.float32)
    return whole.astype(jnp.float32), part


def _value(pattern: Any) -> Array:
    """Returns the float64 of extended patterns."""
    bits = jnp.asarray(pattern, jnp.int32).astype(jnp.int64) + ((1023 - 127) << 23)
    return lax.bitcast_convert_type(bits << 29, jnp.float64)


def short(part: Array) -> Array:
    """Returns fractions as float32; those of a float64 keep 22 bits and whether more follow."""
    if part.dtype == jnp.float32:
        return part
    scaled = part * 2.0**22
    kept = jnp.floor(scaled)
    return ((2 * kept + (scaled > kept).astype(part.dtype)) * 2.0**-23).astype(jnp.float32)


def converted(values: Array, dtype: Any) -> Array:
    """Returns float32 values in another dtype; to float64 without flushing subnormals."""
    if dtype != jnp.float64:
        return values.astype(dtype)
    bits = lax.bitcast_convert_type(values, jnp.int32)
    count = (bits & (STEP - 1)).astype(jnp.float64) * 2.0**-149
    small = jnp.where(bits < 0, -count, count)
    return jnp.where(bits & (255 * STEP) == 0, small, values.astype(dtype))
