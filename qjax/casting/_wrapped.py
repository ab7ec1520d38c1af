"""Fixed-point numbers that wrap around: the last bits of an integer, as hardware keeps them."""

from typing import Any

import jax.numpy as jnp
from jax import lax

from qjax import rounding as roundings
from qjax._typing import Array
from qjax.casting._ends import times_power
from qjax.casting._wide import short
from qjax.formats import Fixed


def on_wrapped(x: Array, format: Fixed, rounding: roundings.Rounding, noise: Array | None) -> Array:
    """Returns float32 values of `format` that are a whole number of ranges away from `x`, rounded.

    NaN stays NaN; an infinity, which has no last bits, becomes NaN.
    """
    negative, size = x < 0, jnp.abs(x)
    wide = jnp.float64 if x.dtype == jnp.float64 else jnp.float32
    if wide == jnp.float32:
        units = times_power(size.astype(wide), jnp.asarray(format.fraction_bits, jnp.int32))
    else:
        units = size * jnp.exp2(jnp.asarray(format.fraction_bits, wide))
    count = _power(format.width).astype(wide)
    # A float so large is a whole number of ranges.
    units = jnp.where(units < count * 2.0**53, units, 0)
    whole = jnp.floor(units)
    odd = whole - 2 * jnp.floor(whole / 2)
    part = short(units - whole)
    total = whole - odd + rounding(odd.astype(jnp.float32) + part, negative, noise).astype(wide)
    last = (total - count * jnp.floor(total / count)).astype(jnp.float32)
    span = _power(format.width)
    last = jnp.where(negative & (last > 0), span - last, last)
    if format.signed:
        last = jnp.where(last >= span / 2, last - span, last)
    values = times_power(last, -jnp.asarray(format.fraction_bits, jnp.int32))
    return jnp.where(jnp.isfinite(x), values, jnp.nan)


def _power(exponent: Any) -> Array:
    """Returns the float32 `2**exponent`."""
    return lax.bitcast_convert_type((jnp.asarray(exponent, jnp.int32) + 127) << 23, jnp.float32)
