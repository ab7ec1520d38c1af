"""Nearest-even onto evenly spaced values that need no scale here: a clip and a rounding.

Unlike the other ways it computes with the values themselves, not with their patterns. Whatever a
processor flushes lies far below half the spacing, which is zero in any case.
"""

import jax.numpy as jnp
from jax import lax

from qjax import rounding as roundings
from qjax._typing import Array
from qjax.casting import _relative
from qjax.formats import STEP, Grid, value_of


def fits(grid: Grid, rounding: roundings.Rounding, x: Array) -> bool:
    """Whether all numbers of a grid are known and evenly spaced, and no digit of `x` is lost."""
    even = grid.uniform and isinstance(rounding, roundings.NearestEven)
    # A float64 would be rounded twice.
    return even and x.dtype != jnp.float64 and _relative.fits(grid)


def on_even(x: Array, grid: Grid) -> Array:
    """Returns float32 values of `grid` next to `x`; NaN becomes the one of `formats.NAN`."""
    step = value_of(grid.lowest - grid.mantissa_bits * STEP)
    high = value_of(grid.limit)
    low = -value_of(grid.limit if grid.negative_limit is None else grid.negative_limit)
    bounds = [jnp.float32(bound) for bound in (low if grid.signed else 0.0, high)]
    # Both ends are on the grid, so that nothing moves past them again.
    values = lax.clamp(bounds[0], x.astype(jnp.float32), bounds[1])
    if step != 1:
        values = values * jnp.float32(1 / step)
    values = lax.round(values, lax.RoundingMethod.TO_NEAREST_EVEN)
    if step != 1:
        values = values * jnp.float32(step)
    if not grid.negative_zero:
        zero = lax.full_like(values, 0)
        values = lax.select(values == zero, zero, values)
    return lax.select(values == values, values, lax.full_like(values, jnp.nan))
