"""The kernel: rounding to any binary grid by any rule, in integer arithmetic on exponent bits.

One piece of arithmetic serves every binary format, for bits that are Python ints, traced, or arrays
per tile; a scale that is a power of two is just a shifted grid. It is exact on float32 subnormals
also where the processor flushes them to zero, because a subnormal never enters a floating-point
operation. Common formats take a shorter way to the same bits (`_relative.py`, `_even.py`).
"""

from typing import Any

import jax.numpy as jnp
from jax import lax

from qjax import rounding as roundings
from qjax._typing import Array
from qjax.casting import _even, _relative, _wide
from qjax.casting._ends import finished, in_words, limit_of
from qjax.casting._shift import Shift, shift_of
from qjax.formats import INFINITY, ONE, STEP, Grid, select, split

# Pattern of the finest spacing of which zero and all float32 subnormals, read as if they were
# normal, are less than one in 2**32 (so that no noise moves them).
FINEST = 33 << 23


def on_grid(
    x: Array,
    grid: Grid,
    rounding: roundings.Rounding = roundings.NEAREST_EVEN,
    noise: Array | None = None,
    *,
    exponent: Array | None = None,
    relative: bool = False,
    highest: Array | None = None,
    scale: Array | None = None,
    counted: bool = False,
) -> Array:
    """Returns float32 values of `grid * 2**exponent` next to `x`: the kernel.

    Args:
      x: Array of floats, any shape.
      grid: The grid; its numbers may be arrays that broadcast against `x` (one per tile).
      rounding: Which neighbour is chosen.
      noise: Random words of the shape of `x` where the rounding is stochastic.
      exponent: int32 exponents of power-of-two scales that broadcast against `x`; with them the
        largest value of the grid stays below 2**128.
      relative: Whether the values are returned without the factor `2**exponent`.
      highest: int32 magnitude patterns above which an input gives NaN, by default that of infinity;
        -1 gives NaN for every input. Broadcasts against `x`.
      scale: Float scales that the result is to be multiplied by, one for each element, NaN where
        `x` is; where they are, the result may be anything.
      counted: Whether the result becomes integers, of which those are not looked at that come
        from NaN.
    """
    grid = in_words(grid)
    if exponent is None and highest is None and _even.fits(grid, rounding, x):
        if counted:
            return _even.on_counted(x, grid)
        if scale is None or not _even.sums(grid):
            return _even.on_even(x, grid)
        return _even.on_scaled(x, grid, scale)
    options: dict[str, Any] = {"relative": relative, "highest": highest}
    if not _relative.fits(grid) or _wide.needed(x, grid):
        return _on_any(x, grid, rounding, noise, exponent=exponent, **options)
    shift = None if exponent is None else shift_of(grid, exponent)
    return _relative.on_relative(
        x, grid, rounding, noise, shift=shift, nans=scale is None, **options
    )


def on_shifted(
    x: Array,
    grid: Grid,
    rounding: roundings.Rounding,
    noise: Array | None,
    shift: Shift,
    relative: bool,
) -> Array:
    """Returns what `on_grid` does by a scale made ready for `grid`, which `fits` that."""
    options: dict[str, Any] = {"relative": relative, "highest": None, "nans": True}
    return _relative.on_relative(x, grid, rounding, noise, shift=shift, **options)


def _on_any(
    x: Array,
    grid: Grid,
    rounding: roundings.Rounding,
    noise: Array | None,
    *,
    exponent: Array | None,
    relative: bool,
    highest: Array | None,
) -> Array:
    """Rounds to a grid whose numbers may be anything; arguments as for `on_grid`."""
    unscaled = grid
    if exponent is not None:
        grid = grid.shifted(exponent)
    shallow = _shallow(grid)
    sign, size, ordered = split(x, shallow)
    negative = sign < 0
    limit = limit_of(grid, negative)
    clipped = ordered if grid.overflow is not None else jnp.minimum(ordered, limit)
    if grid.floor is not None:
        clipped = jnp.maximum(clipped, grid.floor)
    ulp = _spacing(clipped, grid, shallow)
    units = jnp.maximum(clipped + (ONE - ulp), STEP)
    units = lax.bitcast_convert_type(units, jnp.float32)
    if rounding.directed and grid.floor is None:  # the pattern of zero is that of a tiny number
        units = select(size == 0, 0, units)
    base = jnp.float32(0)
    if _wide.needed(x, grid):
        top = limit if grid.overflow is None else None
        base, units = _wide.units(x, units, ulp, ordered, clipped, top)
    whole = base + rounding(units, negative, noise)
    if grid.even_codes:
        whole = _by_code(whole, units, clipped, grid, rounding)
    if relative and exponent is not None:
        ulp, limit = ulp - exponent * STEP, limit_of(unscaled, negative)
    result = _assembled(whole, ulp, shallow)
    if grid.overflow is not None:
        result = select(result > limit, grid.overflow, result)
    return finished(result, sign, grid, size > (INFINITY if highest is None else highest))


def _by_code(
    whole: Array, units: Array, clipped: Array, grid: Grid, rounding: roundings.Rounding
) -> Array:
    """Returns whole numbers where, without digits after the first, the even or odd code decides.

    References:
      IEEE P3109 interim report: formats of precision 1, as gfloat rounds to them.
    """
    even_below = (((clipped >> 23) - (grid.lowest >> 23)) & 1) == 1  # the codes begin at zero
    single = (jnp.asarray(grid.mantissa_bits) == 0) & (units > 1)
    if isinstance(rounding, roundings.NearestEven):
        return select(single & (units == 1.5) & even_below, 1, whole)
    if isinstance(rounding, roundings.ToOdd):
        return select(single, select(even_below, 2, 1), whole).astype(whole.dtype)
    return whole


def _spacing(clipped: Array, grid: Grid, shallow: bool) -> Array:
    """Returns the extended patterns of the distance between neighbours, a power of two."""
    lowest = grid.lowest
    if not shallow:  # float32 itself ends at 2**-149
        lowest = jnp.maximum(lowest, (grid.mantissa_bits - 22) << 23)
    power = lowest if grid.uniform else jnp.maximum(clipped & -STEP, lowest)
    ulp = power - (grid.mantissa_bits << 23)
    return select(clipped < grid.lowest, grid.lowest, ulp) if grid.flush else ulp


def _shallow(grid: Grid) -> bool:
    """Whether no float32 subnormal can matter: decided where the bits are static."""
    numbers = (grid.lowest, grid.mantissa_bits)
    if not all(isinstance(number, int) for number in numbers) or grid.floor is not None:
        return False
    return grid.lowest - (grid.mantissa_bits << 23) >= FINEST


def _assembled(whole: Array, ulp: Array, shallow: bool) -> Array:
    """Returns float32 bits of `whole * 2**k`, where `ulp` is the extended pattern of `2**k`."""
    if shallow:
        value = whole * lax.bitcast_convert_type(jnp.asarray(ulp, jnp.int32), jnp.float32)
        return lax.bitcast_convert_type(value, jnp.int32)
    # In units of the smallest float32 the result is a whole number, and those below 2**23 are
    # their own bit patterns.
    unit = jnp.minimum(ulp, 105 << 23) + (149 << 23)
    units = whole * lax.bitcast_convert_type(unit, jnp.float32)
    small = jnp.minimum(units, 2.0**24).astype(jnp.int32)
    normal = lax.bitcast_convert_type(whole, jnp.int32) + (ulp - ONE)
    return select(small < STEP, small, normal)
