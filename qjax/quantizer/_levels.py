"""Scales below a float scale: NVFP4's two levels, and powers of two."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from qjax import casting, qtensor
from qjax._typing import Array
from qjax.calibration import AbsMax
from qjax.formats import STEP, Float, Format, Int, PowerOfTwo, extended, select, split
from qjax.quantizer._made import HUGE, TINY, Made, inverse, is_float32, reciprocal, scale_layout
from qjax.tiling import Layout


def two_levels(
    amax: Array, format: Format, procedure: Any, layout: Layout, key: Any, keep: bool
) -> Made:
    """Returns scales that have float scales themselves, in the order of NVFP4.

    `encode = max * scale_max / amax(tile of tiles)`; the inner scale is `amax * (encode / max)`,
    rounded; elements are multiplied by `1 / (inner / encode)`. The calibration of the scale's own
    quantizer says what the largest tile is: another than AbsMax stands for `amax(tile of tiles)`.

    References:
      NVIDIA, "Pretraining large language models with NVFP4", arXiv:2509.25149, appendix B.
    """
    qtype = procedure.qtype
    inner = scale_layout(layout, qtype)
    known = select(amax == amax, amax, 0)
    top = _top(known, procedure, inner)
    encode = jnp.minimum(format.max * qtype.format.max / select(top > 0, top, 1), HUGE)
    decode = 1 / encode
    if not is_float32(qtype.scale):  # It is a normal float32 as it is.
        decode = casting.on_format(decode, qtype.scale.format)
        encode = select(decode == 1 / encode, encode, inverse(decode))
    if not (isinstance(qtype.format, Float) and qtype.format.family != "finite"):
        # A scale that cannot be NaN itself passes it on to the scale of its own tile.
        bad = jnp.any(inner.split(amax != amax), axis=inner.axes, keepdims=True)
        decode = select(inner.gather(bad), jnp.nan, decode)
    wanted = amax * _spread(encode * reciprocal(format.max), inner)
    rounding, noise = procedure.rounding, None
    if rounding.stochastic:
        noise = rounding.noise(jax.random.fold_in(key, 1), wanted.shape)
    scale = casting.on_format(wanted, qtype.format, rounding, noise)
    if isinstance(qtype.format, Int):
        # A whole scale of zero would lose a tile that is small but not empty.
        scale = select((wanted > 0) & (scale == 0), 1, scale)
    return _joined(scale, decode, procedure, inner, keep)


def _top(amax: Array, procedure: Any, inner: Layout) -> Array:
    """Returns what bounds the tiles of a tile: their maximum, or what the calibration says."""
    split = inner.split(amax)
    if isinstance(procedure.calibration, AbsMax):
        return inner.gather(jnp.max(split, axis=inner.axes, keepdims=True, initial=0))
    bound, _ = procedure.calibration(split, inner.axes, ())
    return inner.gather(jax.lax.bitcast_convert_type(bound, jnp.float32))


def snapped(amax: Array, format: Format, procedure: Any, layout: Layout, keep: bool) -> Made:
    """Returns powers of two below one float: each the least that holds its tile, exactly.

    With the largest bound `r` of a tile of tiles and the bound `r_c` of a tile, the outer scale is
    `r / max` and the inner one `2**-j` with `j = floor(log2(r / r_c))`, as far down as the inner
    format reaches. A channel's codes may so be shifted and added as integers.

    References:
      ShiftQuant: "Towards accurate and efficient sub-8-bit integer training", arXiv:2411.10948
      (its grouping by powers of two).
    """
    qtype = procedure.qtype
    steps, inner = qtype.format, scale_layout(layout, qtype)
    assert isinstance(steps, PowerOfTwo)
    _, size, _ = split(select(amax == amax, amax, 0))
    axes = inner.axes
    top = inner.gather(jnp.max(inner.split(size), axis=axes, keepdims=True, initial=0))
    # Exponents subtract in a quotient, less one where the divisor has the larger fraction.
    over, under = inner.spread(extended(top)), extended(size)
    borrow = over & (STEP - 1) < under & (STEP - 1)
    down = (over >> 23) - (under >> 23) - borrow.astype(jnp.int32)
    # Inner powers may end above one, and the outer scale takes what they exceed it by.
    above = jnp.minimum(steps.top_exponent, 60)
    exponent = jnp.clip(above - down, steps.min_exponent, above)
    power = casting.times_power(jnp.ones_like(exponent, jnp.float32), exponent)
    largest = jax.lax.bitcast_convert_type(top, jnp.float32)
    wide = jnp.maximum(largest * reciprocal(format.max), TINY)
    wide = casting.on_format(casting.times_power(wide, -above), qtype.scale.format)
    bad = jnp.any(inner.split(amax != amax), axis=axes, keepdims=True)
    wide = select(inner.gather(bad), jnp.nan, wide)
    return _joined(power, wide, procedure, inner, keep)


def _spread(wide: Array, inner: Layout) -> Array:
    """Returns one number per tile; one for all of them stays one, which needs no memory."""
    return wide if wide.size == 1 else inner.spread(wide)


def _joined(scale: Array, wide: Array, procedure: Any, inner: Layout, keep: bool) -> Made:
    """Returns both levels, `wide` one per tile of tiles."""
    qtype, stored = procedure.qtype, None
    if keep:
        outer = qtensor.plain(wide, qtype.scale, scale_layout(inner, qtype.scale))
        codes = qtensor.plain(scale, qtype, inner)
        stored = dataclasses.replace(codes, scale=outer)
    spread = _spread(wide, inner)
    return Made(factors=(scale, spread), inverse=inverse(scale * spread), stored=stored)
