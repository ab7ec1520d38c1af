"""Values onto any format: grids go to the kernel, tables are looked up, overflow may wrap."""

import jax.numpy as jnp

from qjax import rounding as roundings
from qjax._typing import Array
from qjax.casting._ends import times_power
from qjax.casting._grid import on_grid
from qjax.casting._wrapped import on_wrapped
from qjax.formats import Codebook, Fixed, Format


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
) -> Array:
    """Returns float32 values of `format * 2**exponent` next to `x`; arguments as for `on_grid`."""
    wrapping = format if isinstance(format, Fixed) and format.wrap else None
    if not isinstance(format, Codebook) and wrapping is None:
        options = {"exponent": exponent, "relative": relative, "highest": highest}
        return on_grid(x, format.grid, rounding, noise, **options, scale=scale)
    if exponent is not None:
        x = times_power(x.astype(jnp.float32), -exponent)
    if isinstance(format, Codebook):
        values = on_table(x.astype(jnp.float32), format, rounding, noise)
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
        return jnp.where(jnp.isnan(x), x, format.rounded(x))
    x = jnp.clip(x, format.table[0], format.table[-1])
    index = sum((x >= value).astype(jnp.int32) for value in format.table[1:-1])
    low, high = format.decode(jnp.asarray(index)), format.decode(jnp.asarray(index) + 1)
    # Magnitudes are measured from the neighbour nearer to zero.
    negative = x < 0
    near, far = jnp.where(negative, high, low), jnp.where(negative, low, high)
    part = (x - near) / (far - near)
    whole = rounding(part, negative, noise)
    return jnp.where(jnp.isnan(x), x, jnp.where(whole > 0, far, near))
