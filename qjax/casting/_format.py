"""Values onto any format: grids go to the kernel, tables are looked up, overflow may wrap."""

import jax.numpy as jnp

from qjax import rounding as roundings
from qjax._typing import Array
from qjax.casting._ends import times_power
from qjax.casting._grid import on_grid
from qjax.casting._wrapped import on_wrapped
from qjax.formats import Codebook, Fixed, Format, FourthRoots


def on_format(
    x: Array,
    format: Format,
    rounding: roundings.Rounding = roundings.NEAREST_EVEN,
    noise: Array | None = None,
    *,
    exponent: Array | None = None,
    relative: bool = False,
    highest: Array | None = None,
    scale: Array | None = None,
    counted: bool = False,
) -> Array:
    """Returns float32 (or complex64) values of `format * 2**exponent` next to `x`, as `on_grid`."""
    if isinstance(format, FourthRoots):
        return format.decode(format.encode(x))
    wrapping = format if isinstance(format, Fixed) and format.wrap else None
    if not isinstance(format, Codebook) and wrapping is None:
        options = {"exponent": exponent, "relative": relative, "highest": highest}
        options |= {"scale": scale, "counted": counted}
        return on_grid(x, format.grid, rounding, noise, **options)
    if exponent is not None:
        wide = x.dtype == jnp.float64
        x = jnp.ldexp(x, -exponent) if wide else times_power(x.astype(jnp.float32), -exponent)
    if isinstance(format, Codebook):
        values = on_table(x, format, rounding, noise)
    else:
        assert wrapping is not None
        values = on_wrapped(x, wrapping, rounding, noise)
    if exponent is not None and not relative:
        values = times_power(values, exponent)
    return values if highest is None else jnp.where(highest < 0, jnp.nan, values)


def on_table(
    x: Array, format: Codebook, rounding: roundings.Rounding, noise: Array | None = None
) -> Array:
    """Returns float32 values of a table next to `x`; NaN stays NaN."""
    if isinstance(rounding, roundings.NearestEven):
        return jnp.where(jnp.isnan(x), jnp.nan, format.rounded(x))
    x = x if x.dtype == jnp.float64 else x.astype(jnp.float32)
    x = jnp.clip(x, format.table[0], format.table[-1])
    index = sum((x >= value).astype(jnp.int32) for value in format.table[1:-1])
    index = jnp.asarray(index, jnp.int32)
    low, high = (format.decode(i).astype(x.dtype) for i in (index, index + 1))
    # Magnitudes are measured from the neighbour nearer to zero.
    negative = x < 0
    near, far = jnp.where(negative, high, low), jnp.where(negative, low, high)
    if isinstance(rounding, roundings.ToOdd):
        odd = jnp.where(negative, index, index + 1) % 2 == 1
        outward = (x == far) | ((x != near) & odd)
    else:
        if rounding.stochastic:
            part = ((x - near) / (far - near)).astype(jnp.float32)
        else:
            part = jnp.where(x == near, 0, jnp.where(x == far, 1, _quarter(x, format, negative)))
        outward = rounding(part, negative, noise) > 0
    values = jnp.where(outward, far, near).astype(jnp.float32)
    return jnp.where(jnp.isnan(x), jnp.nan, values)


def _quarter(x: Array, format: Codebook, negative: Array) -> Array:
    """Returns 1/4, 1/2 or 3/4 where `x` is before, on or beyond the bound of its two neighbours."""
    beyond, on = format.halves(x)
    return jnp.where(on, 0.5, jnp.where(beyond != negative, 0.75, 0.25)).astype(jnp.float32)
