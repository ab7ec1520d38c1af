"""The only place that loses precision: values onto the grid of a format.

`cast` returns values, in the dtype of its input. Codes are `Format.encode` of what it returns.
The kernel is one piece of integer arithmetic on exponent bits for every binary format, for bits
that are Python ints, traced, or arrays per tile; a scale that is a power of two is just a shifted
grid. It is exact on float32 subnormals also where the processor flushes them to zero, because a
subnormal never enters a floating-point operation.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from qjax import rounding as roundings
from qjax._typing import Array, Key
from qjax.formats import (
    INFINITY,
    NAN,
    ONE,
    STEP,
    Codebook,
    Format,
    FourthRoots,
    Grid,
    compressed,
    split,
)


def cast(
    x: Array,
    format: Format,
    *,
    rounding: roundings.Rounding = roundings.NEAREST_EVEN,
    key: Key | None = None,
) -> Array:
    """Rounds `x` to the values of `format`, saturating.

    NaN stays NaN, an infinity becomes the largest value, -0 is kept where the format has it.
    The derivative is zero; `qjax.gradients` wraps estimators around it.

    Args:
      x: Floating-point array of any shape; float64 is rounded once.
      format: The format; its bits may be traced.
      rounding: Which neighbour is chosen.
      key: Key for stochastic rounding.

    Returns:
      Array with the shape and dtype of `x`.

    Raises:
      TypeError: If `x` is not floating-point.
      ValueError: If `rounding` is stochastic and there is no key.
    """
    if isinstance(format, FourthRoots):
        return format.decode(format.encode(x)).astype(x.dtype)
    check_floating(x, "cast")
    if rounding.stochastic:
        need_key(key, rounding)
    if format.static:
        return _compiled(x, format, rounding, key)
    return _cast(x, format, rounding, key)


def _cast(x: Array, format: Format, rounding: roundings.Rounding, key: Key | None) -> Array:
    noise = rounding.noise(key, x.shape) if rounding.stochastic and key is not None else None
    return on_format(x, format, rounding, noise).astype(x.dtype)


_compiled = jax.jit(_cast, static_argnames=("format", "rounding"))


def check_floating(x: Array, verb: str) -> None:
    """Raises TypeError where `x` is no floating-point array."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"`{verb}` rounds floating-point arrays, but `x` has dtype {x.dtype}. "
            "Convert it first, for instance with `x.astype(jnp.float32)`; "
            "codes are read with `decode`."
        )


def need_key(key: Key | None, rounding: Any) -> Key:
    """Returns `key`, or raises ValueError where it is missing."""
    if key is None:
        raise ValueError(
            f"{rounding!r} draws random bits, but `key` is None. "
            "Pass `key=jax.random.key(seed)`, a new one at every step."
        )
    return key


def on_format(
    x: Array,
    format: Format,
    rounding: roundings.Rounding = roundings.NEAREST_EVEN,
    noise: Array | None = None,
    *,
    exponent: Array | None = None,
    relative: bool = False,
    invalid: Array | None = None,
) -> Array:
    """Returns float32 values of `format * 2**exponent` next to `x`; arguments as for `on_grid`."""
    if not isinstance(format, Codebook):
        options = {"exponent": exponent, "relative": relative, "invalid": invalid}
        return on_grid(x, format.grid, rounding, noise, **options)
    scaled = x.astype(jnp.float32)
    if exponent is not None:
        scaled = times_power(scaled, -exponent)
    values = on_table(scaled, format, rounding, noise)
    if exponent is not None and not relative:
        values = times_power(values, exponent)
    return values if invalid is None else jnp.where(invalid, jnp.nan, values)


def on_table(
    x: Array, format: Codebook, rounding: roundings.Rounding, noise: Array | None = None
) -> Array:
    """Returns float32 values of a table next to `x`; NaN stays NaN."""
    if isinstance(rounding, roundings.NearestEven):
        values = format.decode(format.nearest(x))
        return jnp.where(jnp.isnan(x), x, values)
    x = jnp.clip(x, format.table[0], format.table[-1])
    index = sum((x >= value).astype(jnp.int32) for value in format.table[1:-1])
    low, high = format.decode(jnp.asarray(index)), format.decode(jnp.asarray(index) + 1)
    # Magnitudes are measured from the neighbour nearer to zero.
    negative = x < 0
    near, far = jnp.where(negative, high, low), jnp.where(negative, low, high)
    part = (x - near) / (far - near)
    whole = rounding(part, negative, noise)
    return jnp.where(jnp.isnan(x), x, jnp.where(whole > 0, far, near))


def on_grid(
    x: Array,
    grid: Grid,
    rounding: roundings.Rounding = roundings.NEAREST_EVEN,
    noise: Array | None = None,
    *,
    exponent: Array | None = None,
    relative: bool = False,
    invalid: Array | None = None,
) -> Array:
    """Returns float32 values of `grid * 2**exponent` next to `x`: the kernel.

    Args:
      x: Array of floats, any shape.
      grid: The grid; its numbers may be arrays that broadcast against `x` (one per tile).
      rounding: Which neighbour is chosen.
      noise: Random words of the shape of `x` where the rounding is stochastic.
      exponent: int32 exponents of power-of-two scales that broadcast against `x`.
      relative: Whether the values are returned without the factor `2**exponent`.
      invalid: Booleans that broadcast against `x`: where true the result is NaN.
    """
    shift = None if exponent is None else exponent * STEP
    if exponent is not None:
        grid = grid.shifted(exponent)
    shallow = _shallow(grid)
    sign, size, ordered = split(x, shallow)
    negative = sign < 0
    limit = grid.limit
    if grid.negative_limit is not None:
        limit = jnp.where(negative, grid.negative_limit, limit)
    clipped = ordered if grid.overflow is not None else jnp.minimum(ordered, limit)
    if grid.floor is not None:
        clipped = jnp.maximum(clipped, grid.floor)
    lowest = grid.lowest
    if not shallow:  # float32 itself ends at 2**-149
        lowest = jnp.maximum(lowest, (grid.mantissa_bits - 22) << 23)
    power = lowest if grid.uniform else jnp.maximum(clipped & -STEP, lowest)
    ulp = power - (grid.mantissa_bits << 23)
    if grid.flush:
        ulp = jnp.where(clipped < grid.lowest, grid.lowest, ulp)
    units = jnp.maximum(clipped + (ONE - ulp), STEP)
    units = lax.bitcast_convert_type(units, jnp.float32)
    if rounding.directed:  # the pattern of zero is that of a tiny number
        units = jnp.where(size == 0, 0, units)
    whole = rounding(units, negative, noise)
    if relative and shift is not None:
        ulp, limit = ulp - shift, limit - shift
    result = _assembled(whole, ulp, shallow)
    if grid.overflow is not None:
        result = jnp.where(result > limit, grid.overflow, result)
    if not grid.signed:
        result = jnp.where(
            negative, 0 if grid.floor is None else compressed(jnp.asarray(grid.floor)), result
        )
    elif grid.negative_zero:
        result = result | sign
    else:
        result = jnp.where(result == 0, 0, result | sign)
    threshold = INFINITY if invalid is None else jnp.where(invalid, -1, INFINITY)
    result = jnp.where(size > threshold, NAN, result)
    return lax.bitcast_convert_type(result, jnp.float32)


def times_power(values: Array, exponent: Array) -> Array:
    """Returns float32 `values * 2**exponent`, exact where float32 holds it, without flushing."""
    sign, size, ordered = split(values)
    product = ordered + exponent * STEP
    product = jnp.where(product >= 255 << 23, INFINITY, compressed(product))
    product = jnp.where(size == 0, 0, jnp.where(size >= INFINITY, size, product))
    return lax.bitcast_convert_type(product | sign, jnp.float32)


def _shallow(grid: Grid) -> bool:
    """Whether no float32 subnormal can matter: decided where the bits are static."""
    numbers = (grid.lowest, grid.mantissa_bits)
    if not all(isinstance(number, int) for number in numbers) or grid.floor is not None:
        return False
    return grid.lowest - (grid.mantissa_bits << 23) >= STEP


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
    return jnp.where(small < STEP, small, normal)
