"""What every way of rounding to a grid begins and ends with: limits, signs, NaN, powers of two."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import lax

from qjax._typing import Array
from qjax.formats import INFINITY, NAN, STEP, Grid, compressed, select, split


def in_words(grid: Grid) -> Grid:
    """Returns the grid with its traced patterns as int32; of x64 programs they are int64."""
    names = ("mantissa_bits", "lowest", "limit", "negative_limit", "floor")
    found = {name: getattr(grid, name) for name in names}
    words = {
        name: jnp.asarray(number, jnp.int32)
        for name, number in found.items()
        if number is not None and not isinstance(number, int)
    }
    return dataclasses.replace(grid, **words) if words else grid


def limit_of(grid: Grid, negative: Array) -> Any:
    """Returns the pattern of the largest magnitude on the side of each element."""
    if grid.negative_limit is None:
        return grid.limit
    return select(negative, grid.negative_limit, grid.limit)


def finished(result: Array, sign: Array, grid: Grid, bad: Array | None) -> Array:
    """Returns float32 values of rounded magnitudes.

    Args:
      result: int32 patterns of float32 magnitudes.
      sign: Sign bits of the input, in place.
      grid: The grid.
      bad: Where the value is NaN instead; None is nowhere.
    """
    if not grid.signed:
        least = 0 if grid.floor is None else compressed(jnp.asarray(grid.floor, jnp.int32))
        result = select(sign < 0, least, result)
    elif grid.negative_zero:
        result = result | sign
    else:
        result = select(result == 0, 0, result | sign)
    if bad is not None:
        result = select(bad, NAN, result)
    return lax.bitcast_convert_type(result, jnp.float32)


def times_power(values: Array, exponent: Array) -> Array:
    """Returns float32 `values * 2**exponent`, exact where float32 holds it, without flushing."""
    sign, size, ordered = split(values)
    product = ordered + exponent * STEP
    product = select(product >= 255 << 23, INFINITY, compressed(product))
    product = select(size == 0, 0, select(size >= INFINITY, size, product))
    return lax.bitcast_convert_type(product | sign, jnp.float32)
