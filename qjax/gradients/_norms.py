"""Weights as functions of free parameters: bounded, normalized, projected.

The bound of sums of products is the idea of A2Q: if the integers of a channel have a small enough
sum of magnitudes, no input can make a narrow accumulator overflow.
"""

import jax
import jax.numpy as jnp

from qjax._typing import Array, Axes
from qjax.gradients._surrogates import through


def unit_tanh(x: Array) -> Array:
    """Returns `tanh(x)` over its largest magnitude: [-1, 1], evenly filled where `x` is Gaussian.

    References:
      Zhou et al., "DoReFa-Net", 2016, arXiv:1606.06160.
    """
    squashed = jnp.tanh(x)
    largest = jnp.max(jnp.abs(squashed))
    return squashed / jnp.where(largest > 0, largest, 1)


def squash(x: Array) -> Array:
    """Returns `x` squashed so that Gaussian values spread almost evenly, their variance kept.

    The hyperbolic tangent of a standard normal variable is nearly uniform on (-1, 1), so a few
    evenly spaced levels are all used. The derivative is that of the tangent; the root mean
    square, which is the unit, is held fixed.
    """
    size = jax.lax.stop_gradient(jnp.sqrt(jnp.mean(jnp.square(x))))
    size = jnp.where(size > 0, size, 1)
    return 3**0.5 * size * jnp.tanh(x / size)


def l1_limit(accumulator: int, input_bits: int, *, signed: bool, centred: bool) -> float:
    """Returns the largest sum of magnitudes of integer weights that no input can overflow.

    Args:
      accumulator: Bits P of the accumulator, in two's complement, used up to `2**(P-1) - 1` on
        both sides.
      input_bits: Bits N of the inputs.
      signed: Whether inputs reach below zero. Where weights sum to zero it makes no difference.
      centred: Whether positive and negative weights have equal sums, which doubles the bound.

    References:
      Colbert et al., "A2Q", ICCV 2023, arXiv:2308.13504; "A2Q+", 2024, arXiv:2401.10432.
    """
    if centred:
        return (2.0**accumulator - 2) / (2.0**input_bits - 1)
    return (2.0 ** (accumulator - 1) - 1) * 2.0 ** (int(signed) - input_bits)


def l1_bounded(
    x: Array,
    norm: Array,
    step: Array,
    *,
    bits: int,
    accumulator: int,
    input_bits: int,
    signed: bool,
    centred: bool,
    axis: Axes,
) -> Array:
    """Integer weights times a step, whose sums of products fit into an accumulator for any input.

    Weights are `x` scaled to the sum of magnitudes `norm`, at most the limit; rounding is toward
    zero, which cannot raise that sum. Gradients pass the rounding and the clip to `bits` as if
    they were not there, and are exact in everything else.

    The sums of the integers themselves are checked: where float32 has lost the bound by a
    rounding error, the channel is scaled down by that error's bound and rounded again.

    Args:
      x: Free weights.
      norm: Learned sum of magnitudes of each channel, positive, in the unit of the weights.
      step: Learned step of each channel, positive.
      bits: Bits of the integers; the range is symmetric.
      accumulator: Bits of the accumulator, at most 31.
      input_bits: Bits of the inputs.
      signed: Whether the inputs are.
      centred: Whether the mean of each channel is taken away first (A2Q+).
      axis: Axes that one channel sums over.
    """
    limit = l1_limit(accumulator, input_bits, signed=signed, centred=centred)
    if centred:
        x = x - jnp.mean(x, axis=axis, keepdims=True)
    size = jnp.sum(jnp.abs(x), axis=axis, keepdims=True)
    units = jnp.minimum(norm / step, limit) * x / jnp.where(size > 0, size, 1)
    top = (1 << (bits - 1)) - 1
    fixed = jax.lax.stop_gradient(units)
    codes = jnp.clip(jnp.trunc(fixed), -top, top)
    fits = no_overflow(
        codes, accumulator=accumulator, input_bits=input_bits, signed=signed, axis=axis
    )
    codes = jnp.where(fits, codes, jnp.clip(jnp.trunc(_shrunk(fixed, axis, centred)), -top, top))
    return through(units, codes) * step


def _shrunk(units: Array, axis: Axes, centred: bool) -> Array:
    """Scales channels down until the bound holds in spite of float32's errors.

    A sum of K terms is off by at most K units in the last place, and each side of a centred
    channel may be larger than half by as much.
    """
    sides = [jnp.sum(jnp.maximum(s * units, 0), axis=axis, keepdims=True) for s in (1, -1)]
    terms = units.size // sides[0].size
    room = max(0.0, 1 - (terms + 8) * 2.0**-22)
    if not centred:
        return units * room
    larger = jnp.maximum(*sides)
    even = (sides[0] + sides[1]) / (2 * jnp.where(larger > 0, larger, 1))
    return units * jnp.where(larger > 0, even, 1) * room


def no_overflow(
    codes: Array, *, accumulator: int, input_bits: int, signed: bool, axis: Axes
) -> Array:
    """Whether integer weights can overflow an accumulator for no input, in no order of the sum.

    Args:
      codes: Integer weights, fewer than `2**31` in magnitude and in their sums.
      accumulator: Bits of the accumulator, at most 31.
      input_bits: Bits of the inputs, at least 2 where they are signed.
      signed: Whether the inputs are.
      axis: Axes that one sum runs over.
    """
    largest = (1 << (accumulator - 1)) - 1
    whole = codes.astype(jnp.int32)
    above = jnp.sum(jnp.maximum(whole, 0), axis=axis, keepdims=True)
    below = jnp.sum(jnp.maximum(-whole, 0), axis=axis, keepdims=True)
    side = jnp.maximum(above, below)
    if not signed:
        return side <= largest // ((1 << input_bits) - 1)
    # The most negative input is one larger in magnitude than the most positive.
    top = (1 << (input_bits - 1)) - 1
    total = jnp.minimum(above + below, largest // top + 1)
    return (total <= largest // top) & (total * top + side <= largest)


def onto_l1_ball(x: Array, radius: Array, axis: int) -> Array:
    """Returns the nearest point whose sum of magnitudes along `axis` is at most `radius`.

    References:
      Duchi et al., "Efficient projections onto the l1-ball", ICML 2008; A2Q+ starts from it.
    """
    sizes = jnp.abs(x)
    ordered = -jnp.sort(-sizes, axis=axis)
    place = jax.lax.broadcasted_iota(x.dtype, x.shape, axis % x.ndim) + 1
    shift = (jnp.cumsum(ordered, axis=axis) - radius) / place
    kept = jnp.sum(ordered > shift, axis=axis, keepdims=True)
    threshold = jnp.take_along_axis(shift, jnp.maximum(kept - 1, 0), axis=axis)
    return jnp.sign(x) * jnp.maximum(sizes - jnp.maximum(threshold, 0), 0)
