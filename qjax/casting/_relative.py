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
from qjax.casting._shift import Shift
from qjax.formats import INFINITY, NAN, ONE, STEP, Grid, select, split

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
    shift: Shift | None,
    relative: bool,
    highest: Array | None,
    nans: bool,
) -> Array:
    """Returns float32 values of the shifted `grid` next to `x`; arguments as for `on_grid`.

    A `shift` stands for the exponent, and where it is `bounded` for `highest` as well.
    """
    bottom = None if shift is None else shift.bottom
    sign, size, part = _read(x, grid, shift, bottom)
    lowest = grid.lowest
    if shift is not None and shift.deep:
        # float32 itself ends at 2**-149.
        lowest = jnp.maximum(lowest, bottom + ((grid.mantissa_bits - 23) << 23))
    power = lowest if grid.uniform else jnp.maximum(part & -STEP, lowest)
    if isinstance(rounding, roundings.NearestEven) and not grid.uniform:
        magic = _float(power + ((23 - grid.mantissa_bits) << 23))
        value = (_float(part) + magic) - magic
    else:
        unit = power - (grid.mantissa_bits << 23)
        if rounding.directed:  # by patterns, in which nothing but zero becomes zero
            units = select(size == 0, 0, _float(jnp.maximum(part + (ONE - unit), STEP)))
        else:
            units = _float(part) * _float(2 * ONE - unit)
        value = rounding(units, sign < 0, noise) * _float(unit)
    if shift is None or relative:
        result = lax.bitcast_convert_type(value, jnp.int32)
    else:
        result = _scaled(value, shift, bottom)
    return finished(result, sign, grid, _bad(size, shift, highest, nans))


def _bad(size: Array, shift: Shift | None, highest: Array | None, nans: bool) -> Array | None:
    """Returns where the result is NaN; None where nobody asks."""
    marked = shift.steps == NAN if shift is not None and shift.marked else None
    if not nans or (shift is not None and shift.bounded):
        return marked
    bad = size > (INFINITY if highest is None else highest)
    return bad if marked is None else bad | marked


def _read(x: Array, grid: Grid, shift: Shift | None, bottom: Any) -> tuple[Array, Array, Array]:
    """Returns signs, magnitudes and, up to the limit, magnitudes in units of the scale."""
    wide = x.dtype == jnp.float64
    sign, size, ordered = split(x, shallow=shift is None or not wide)
    if shift is None:
        return sign, size, jnp.minimum(size, limit_of(grid, sign < 0))  # subnormal is zero
    if wide:
        high = limit_of(grid, sign < 0) + shift.steps
        return sign, size, jnp.maximum(jnp.minimum(ordered, high) - shift.steps, STEP)
    part = jnp.minimum(_in_units(size, shift, bottom), _unsigned(limit_of(grid, sign < 0)))
    return sign, size, lax.bitcast_convert_type(part, jnp.int32)


def _float(pattern: Any) -> Array:
    return lax.bitcast_convert_type(jnp.asarray(pattern, jnp.int32), jnp.float32)


def _unsigned(pattern: Any) -> Array:
    if isinstance(pattern, int):  # Triton converts no bits of a constant
        return jnp.uint32(pattern)
    return lax.bitcast_convert_type(jnp.asarray(pattern, jnp.int32), jnp.uint32)


def _in_units(size: Array, shift: Shift, bottom: Any) -> Array:
    """Returns uint32 patterns of magnitudes in units of a scale; what is too small becomes zero.

    Of a normal magnitude the exponents subtract. A subnormal one is the fraction of the smallest
    normal number: without the one before it, and twice as large. Each is too large where the other
    is right (as unsigned numbers, in which also what overflows is large), so that the smaller is
    taken.
    """
    if shift.bounded:
        normal = jnp.maximum(size - shift.steps, 0)
    else:
        normal = jnp.maximum(size, jnp.maximum(shift.steps, 0)) - shift.steps
    subnormal = _float(normal) * 2 - _float(bottom)
    subnormal = lax.bitcast_convert_type(subnormal, jnp.uint32)
    return jnp.minimum(subnormal, lax.bitcast_convert_type(normal, jnp.uint32))


def _scaled(value: Array, shift: Shift, bottom: Any) -> Array:
    """Returns int32 patterns of `value * 2**exponent`, exact down to the smallest float32."""
    # Below float32's smallest normal number the pattern is how many of the smallest there are:
    # what is added to that number, in units of the scale, counts them in its last bits.
    small = lax.bitcast_convert_type(value + _float(bottom), jnp.int32) - bottom
    normal = lax.bitcast_convert_type(value, jnp.int32) + shift.steps
    return select(value < _float(bottom), small, normal)
