"""The short way: magnitudes rounded relative to their scale, where all numbers are normal.

Input and output may be subnormal in float32, where a processor flushes them; they are read and
written as integers, and between lies a magnitude in units of its scale, a normal float32 for the
common formats. The bits are those of `_grid.py`, which any format can take; here 20 operations per
element do what takes 40 there, and 12 do where there is no scale.

Nearest-even is one addition and one subtraction. A float32 addition rounds to nearest-even by
itself: with `C = 2**(e + 23 - m)` the sum of `C` and a magnitude in `[2**e, 2**(e + 1))` has its
last digit at `2**(e - m)`. `C` is built from the magnitude's own exponent bits (it must depend on
data: a literal one would be simplified away), and held at the format's smallest binade below it.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax

from qjax import rounding as roundings
from qjax._typing import Array
from qjax.casting._ends import finished, limit_of
from qjax.formats import ONE, STEP, Grid, split

# Patterns of the finest spacing and the largest value for which no constant leaves float32.
FINEST, LARGEST = ONE - (60 << 23), ONE + (60 << 23)


def fits(grid: Grid) -> bool:
    """Whether a grid saturates, and has a zero, subnormals and known numbers near one."""
    numbers = (grid.lowest, grid.mantissa_bits, grid.limit, grid.negative_limit or 0)
    if not all(isinstance(number, int) for number in numbers):
        return False
    plain = grid.floor is None and grid.overflow is None and not grid.flush and not grid.even_codes
    spacing = grid.lowest - (grid.mantissa_bits << 23)
    return plain and spacing >= FINEST and max(grid.limit, grid.negative_limit or 0) < LARGEST


def on_relative(
    x: Array,
    grid: Grid,
    rounding: roundings.Rounding,
    noise: Array | None,
    *,
    exponent: Array | None,
    relative: bool,
    highest: Array | None,
) -> Array:
    """Returns float32 values of `grid * 2**exponent` next to `x`; arguments as for `on_grid`."""
    sign, size, ordered = split(x, shallow=exponent is None or x.dtype != jnp.float64)
    limit, lowest = limit_of(grid, sign < 0), grid.lowest
    if exponent is None:
        part = jnp.minimum(size, limit)  # what is subnormal is as good as zero
    else:
        shift = exponent * STEP
        if x.dtype == jnp.float64:
            part = jnp.maximum(jnp.minimum(ordered, limit + shift) - shift, STEP)
        else:
            part = jnp.minimum(_in_units(size, shift), _unsigned(limit))
            part = lax.bitcast_convert_type(part, jnp.int32)
        # float32 itself ends at 2**-149.
        lowest = jnp.maximum(lowest, ((grid.mantissa_bits - 22) << 23) - shift)
    power = lowest if grid.uniform else jnp.maximum(part & -STEP, lowest)
    if isinstance(rounding, roundings.NearestEven) and not grid.uniform:
        magic = _float(power + ((23 - grid.mantissa_bits) << 23))
        value = (_float(part) + magic) - magic
    else:
        unit = power - (grid.mantissa_bits << 23)
        if rounding.directed:  # by patterns, in which nothing but zero becomes zero
            units = jnp.where(size == 0, 0, _float(jnp.maximum(part + (ONE - unit), STEP)))
        else:
            units = _float(part) * _float(2 * ONE - unit)
        value = rounding(units, sign < 0, noise) * _float(unit)
    if exponent is None or relative:
        result = lax.bitcast_convert_type(value, jnp.int32)
    else:
        result = _scaled(value, exponent * STEP)
    return finished(result, sign, size, grid, highest)


def _float(pattern: Any) -> Array:
    return lax.bitcast_convert_type(jnp.asarray(pattern, jnp.int32), jnp.float32)


def _unsigned(pattern: Any) -> Array:
    if isinstance(pattern, int):  # Triton converts no bits of a constant
        return jnp.uint32(pattern)
    return lax.bitcast_convert_type(jnp.asarray(pattern, jnp.int32), jnp.uint32)


def _smallest_normal(shift: Array) -> Array:
    """Returns the pattern of float32's smallest normal number in units of a scale.

    Of a scale above one it is that number itself, which then is as good as zero.
    """
    return jnp.maximum(STEP - shift, STEP)


def _in_units(size: Array, shift: Array) -> Array:
    """Returns uint32 patterns of magnitudes in units of a scale; what is too small becomes zero.

    Of a normal magnitude the exponents subtract. A subnormal one is the fraction of the smallest
    normal number, put above it and taken from it again. Each is too large where the other is right
    (as unsigned numbers, in which also what overflows is large), so that the smaller is taken.
    """
    bottom = _smallest_normal(shift)
    subnormal = _float(size + bottom) - _float(bottom)
    normal = jnp.maximum(size, jnp.maximum(shift, 0)) - shift
    subnormal = lax.bitcast_convert_type(subnormal, jnp.uint32)
    return jnp.minimum(subnormal, lax.bitcast_convert_type(normal, jnp.uint32))


def _scaled(value: Array, shift: Array) -> Array:
    """Returns int32 patterns of `value * 2**exponent`, exact down to the smallest float32."""
    # Below float32's smallest normal number the pattern is how many of the smallest there are:
    # what is added to that number, in units of the scale, counts them in its last bits.
    bottom = _smallest_normal(shift)
    small = lax.bitcast_convert_type(value + _float(bottom), jnp.int32) - bottom
    normal = lax.bitcast_convert_type(value, jnp.int32) + shift
    return jnp.where(value < _float(bottom), small, normal)
