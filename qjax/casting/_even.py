"""Nearest-even onto evenly spaced values that need no scale here: a clip and a rounding.

Unlike the other ways it computes with the values themselves, not with their patterns. Whatever a
processor flushes lies far below half the spacing, which is zero in any case.
"""

import jax.numpy as jnp
from jax import lax

from qjax import rounding as roundings
from qjax._typing import Array
from qjax.casting import _relative
from qjax.formats import STEP, Grid, select, value_of


def fits(grid: Grid, rounding: roundings.Rounding, x: Array) -> bool:
    """Whether all numbers of a grid are known and evenly spaced, and no digit of `x` is lost."""
    even = grid.uniform and isinstance(rounding, roundings.NearestEven)
    # A float64 would be rounded twice.
    return even and x.dtype != jnp.float64 and _relative.fits(grid)


def on_even(x: Array, grid: Grid) -> Array:
    """Returns float32 values of `grid` next to `x`; NaN becomes the one of `formats.NAN`."""
    values = on_counted(x, grid)
    if not grid.negative_zero:
        zero = lax.full_like(values, 0)
        values = lax.select(values == zero, zero, values)
    return lax.select(values == values, values, lax.full_like(values, jnp.nan))


def on_counted(x: Array, grid: Grid) -> Array:
    """Returns what `on_even` does, but zeros may be negative and NaN anything.

    That is all one where the values become integers, whose scales tell of NaN.
    """
    step, low, high = _ends(grid)
    # Both ends are on the grid, so that nothing moves past them again.
    values = lax.clamp(low, x.astype(jnp.float32), high)
    if step == 1:
        return lax.round(values, lax.RoundingMethod.TO_NEAREST_EVEN)
    values = lax.round(values * jnp.float32(1 / step), lax.RoundingMethod.TO_NEAREST_EVEN)
    return values * jnp.float32(step)


def on_scaled(x: Array, grid: Grid, scale: Array) -> Array:
    """Returns what `on_even` does for finite `x`; otherwise anything, NaN where `scale` is.

    A number whose last digit is a step of the grid is added and taken away again, which takes half
    of the operations. It hangs on `scale`, one for each element: a literal one a compiler would
    simplify away.
    """
    step, low, high = _ends(grid)
    values = x.astype(jnp.float32)
    # Unlike a clamp these end NaN, too.
    values = select(values < high, values, high)
    values = select(values > low, values, low)
    magic = select(scale == scale, jnp.float32(1.5 * 2**23 * step), jnp.nan)
    return (values + magic) - magic


def sums(grid: Grid) -> bool:
    """Whether `on_scaled` reaches the ends of a grid that `fits`."""
    return grid.mantissa_bits <= 21 and not grid.negative_zero


def _ends(grid: Grid) -> tuple[float, Array, Array]:
    """Returns the step of an even grid and its float32 ends."""
    high = value_of(grid.limit)
    low = -value_of(grid.limit if grid.negative_limit is None else grid.negative_limit)
    step = value_of(grid.lowest - grid.mantissa_bits * STEP)
    return step, jnp.float32(low if grid.signed else 0.0), jnp.float32(high)
