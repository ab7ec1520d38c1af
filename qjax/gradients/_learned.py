"""Casts whose step, bound, offset or width is learned.

Everything here is ordinary differentiable code around one rounding; what is published as a closed
form of a gradient follows from it, and the tests compare both. Binary points are in `_fixed`.
"""

import jax
import jax.numpy as jnp

from qjax._typing import Array
from qjax.gradients._surrogates import round_through, scaled, through


def lsq(x: Array, step: Array, *, low: float, high: float) -> Array:
    """Integers times a learned step size: `clip(round(x / step), low, high) * step`.

    The derivative in `x` is 1 inside the range and 0 outside; in `step` it is
    `round(x / step) - x / step` inside and the bound outside, times `1 / sqrt(n * high)` for `n`
    elements per step.

    Args:
      x: Values.
      step: Positive step sizes that broadcast against `x`.
      low: Smallest integer, for instance -8.
      high: Largest integer, for instance 7.

    References:
      Esser et al., "Learned step size quantization", ICLR 2020, arXiv:1902.08153.
    """
    elements = x.size / jnp.size(step)
    step = scaled(jnp.asarray(step), 1 / (elements * max(high, 1)) ** 0.5)
    return round_through(jnp.clip(x / step, low, high)) * step


def lsq_plus(x: Array, step: Array, offset: Array, *, low: float, high: float) -> Array:
    """LSQ with a learned offset: the range need not be symmetric around zero.

    References:
      Bhalgat et al., "LSQ+", CVPR workshops 2020, arXiv:2004.09576.
    """
    factor = 1 / (x.size / jnp.size(step) * max(high, 1)) ** 0.5
    step, offset = scaled(jnp.asarray(step), factor), scaled(jnp.asarray(offset), factor)
    return round_through(jnp.clip((x - offset) / step, low, high)) * step + offset


def pact(x: Array, bound: Array, bits: int) -> Array:
    """Activations clipped to [0, bound] with a learned bound, then evenly spaced.

    The derivative in `bound` is 1 where `x` is clipped, else 0; `spaced` has that of PACT+.

    References:
      Choi et al., "PACT", 2018, arXiv:1805.06085.
    """
    top = (1 << bits) - 1
    held = jnp.clip(x, 0, bound)
    step = jax.lax.stop_gradient(bound) / top
    return held + jax.lax.stop_gradient(jnp.round(held / step) * step - held)


def learned_bits(x: Array, bits: Array, *, least: float = 1.0, most: float = 16.0) -> Array:
    """A learned, fractional bit width: between two widths values are interpolated.

    With `n = floor(bits)` the result is `(1 - f) * q(x, n) + f * q(x, n + 1)`, where `f` is the
    fraction and `q` spaces `2**n` values evenly from the smallest to the largest element; the
    derivative in `bits` is the difference of both.

    References:
      Nikolic et al., "BitPruning", 2020, arXiv:2002.03090.
    """
    bits = jnp.clip(bits, least, most)
    whole = jax.lax.stop_gradient(jnp.floor(bits))
    fraction = bits - whole
    low, high = jax.lax.stop_gradient((jnp.min(x), jnp.max(x)))

    def spaced(width: Array) -> Array:
        step = (high - low) / (2.0**width - 1)
        step = jnp.where(step > 0, step, 1)
        return round_through((x - low) / step) * step + low

    return (1 - fraction) * spaced(whole) + fraction * spaced(whole + 1)


def spaced(x: Array, low: Array, high: Array, *, bits: int) -> Array:
    """Values clipped to [low, high] and rounded to `2**bits` evenly spaced ones, ends included.

    The derivative in `x` is 1 inside and 0 outside. Both ends may be learned: an end receives the
    gradient of all values clipped to it, and of those inside the share by which it moves them.
    With `low` 0 this is PACT+, where `pact` leaves that share out.

    Args:
      x: Values.
      low: Smallest value, broadcasts against `x`.
      high: Largest value, broadcasts against `x`.
      bits: Width of the codes.
    """
    low, high = jnp.asarray(low, x.dtype), jnp.asarray(high, x.dtype)
    step = (high - low) / ((1 << bits) - 1)
    return round_through((jnp.clip(x, low, high) - low) / step) * step + low


def soft_levels(x: Array, low: Array, high: Array, softness: Array, *, bits: int) -> Array:
    """Evenly spaced values with the derivatives of soft ones, in all that is learned.

    From each of `2**bits` values to the next a scaled hyperbolic tangent rises; its values are
    rounded, its derivatives are kept. Towards `softness` 0 the tangent becomes a step.

    Args:
      x: Values.
      low: Smallest value, broadcasts against `x`.
      high: Largest value, broadcasts against `x`.
      softness: The paper's alpha, kept within 1e-3 and 0.499.
      bits: Width of the codes.

    References:
      Gong et al., "Differentiable soft quantization", ICCV 2019, arXiv:1908.05033.
    """
    low, high, softness = (jnp.asarray(v, x.dtype) for v in (low, high, softness))
    softness = jnp.clip(softness, 1e-3, 0.499)
    top = (1 << bits) - 1
    step = (high - low) / top
    held = jnp.clip(x, low, high)
    below = jax.lax.stop_gradient(jnp.clip(jnp.floor((held - low) / step), 0, top - 1))
    from_middle = (held - low) / step - below - 0.5
    rise = jnp.tanh(jnp.log(2 / softness - 1) * from_middle) / (1 - softness)
    soft = low + step * (below + (rise + 1) / 2)
    hard = low + step * (below + (from_middle >= 0).astype(x.dtype))
    return through(soft, hard)
