"""Gradient estimators: what the derivative of a rounding is taken to be in ordinary code.

A cast has derivative zero. Each function here wraps a cast, or is one, and gives it a useful
derivative. A quantized contraction writes its own backward pass and needs none of these. Where a
mask or an identity is all there is, forward mode works too (`custom_jvp`).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from qjax._typing import Array

Cast = Callable[[Array], Array]


def straight_through(cast: Cast) -> Cast:
    """Returns `cast` with the identity as its derivative.

    References:
      Bengio et al., "Estimating or propagating gradients through stochastic neurons", 2013.
    """
    return _with_slope(cast, lambda x: jnp.ones_like(x))


def through(x: Array, values: Array) -> Array:
    """Returns `values`, what a cast made of `x`, with the identity as derivative in `x`."""
    return _through(x, values)


@jax.custom_jvp
def _through(x: Array, values: Array) -> Array:
    return values


@_through.defjvp
def _(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    x, values = primals
    return _through(x, values), tangents[0].astype(values.dtype)


def clipped(cast: Cast, low: Any, high: Any) -> Cast:
    """Returns `cast` with derivative 1 on [low, high] and 0 outside, where it saturates."""
    return _with_slope(cast, lambda x: ((x >= low) & (x <= high)).astype(x.dtype))


def tanh_surrogate(cast: Cast, sharpness: float = 1.0) -> Cast:
    """Returns `cast` with the derivative of `tanh(sharpness * x)`, for binary values."""
    return _with_slope(cast, lambda x: sharpness * (1 - jnp.tanh(sharpness * x) ** 2))


def biper(x: Array, frequency: float = 20.0) -> Array:
    """Binary weights as the sign of a sine: `sign(sin(frequency * x))`, its derivative the sine's.

    References:
      Vargas et al., "BiPer: binary neural networks using a periodic function", CVPR 2024.
    """

    def sign(x: Array) -> Array:
        return jnp.where(jnp.sin(frequency * x) >= 0, 1.0, -1.0).astype(x.dtype)

    return _with_slope(sign, lambda x: frequency * jnp.cos(frequency * x))(x)


def dsq(cast: Cast, step: Any, sharpness: float = 5.0) -> Cast:
    """Returns `cast` with the slope of differentiable soft quantization.

    Between two values a scaled hyperbolic tangent rises from one to the other; its slope, which
    integrates to one step over one step, is the derivative.

    Args:
      cast: A cast to evenly spaced values, `step` apart.
      step: Distance of neighbouring values.
      sharpness: Of the tangent; the limit 0 is straight-through.

    References:
      Gong et al., "Differentiable soft quantization", ICCV 2019, arXiv:1908.05033.
    """

    def slope(x: Array) -> Array:
        # Position within the step, -1/2 to 1/2 around the middle between two values.
        part = x / step - jnp.floor(x / step) - 0.5
        norm = sharpness / (2 * jnp.tanh(jnp.float32(sharpness / 2))).astype(x.dtype)
        return norm * (1 - jnp.tanh(sharpness * part) ** 2)

    return _with_slope(cast, slope)


def _with_slope(cast: Cast, slope: Cast) -> Cast:
    """Returns `cast` with `slope(x)` as its derivative, in both modes."""

    @jax.custom_jvp
    def wrapped(x: Array) -> Array:
        return cast(x)

    @wrapped.defjvp
    def _(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
        (x,), (t,) = primals, tangents
        return wrapped(x), (t * slope(x)).astype(t.dtype)

    return wrapped


def ewgs(cast: Cast, scaling: float = 1e-3) -> Cast:
    """Returns `cast` with element-wise gradient scaling.

    A cotangent `g` becomes `g * (1 + scaling * sign(g) * (x - cast(x)))`: larger where following
    it moves `x` away from its value.

    References:
      Lee, Kim and Ham, "Network quantization with element-wise gradient scaling", CVPR 2021.
    """

    @jax.custom_vjp
    def wrapped(x: Array) -> Array:
        return cast(x)

    def forward(x: Array) -> tuple[Array, Array]:
        y = cast(x)
        return y, x - y

    def backward(gap: Array, g: Array) -> tuple[Array]:
        return (g * (1 + scaling * jnp.sign(g) * gap),)

    wrapped.defvjp(forward, backward)
    return wrapped


def scaled(x: Array, factor: Any) -> Array:
    """Returns `x`, its gradient multiplied by `factor`."""
    return _scaled(factor, x)


@jax.custom_vjp
def _scaled(factor: Any, x: Array) -> Array:
    return x


def _scaled_fwd(factor: Any, x: Array) -> tuple[Array, Any]:
    return x, factor


def _scaled_bwd(factor: Any, g: Array) -> tuple[None, Array]:
    return None, g * jnp.asarray(factor, g.dtype)


_scaled.defvjp(_scaled_fwd, _scaled_bwd)


def round_through(x: Array) -> Array:
    """Rounds to whole numbers, ties to even, with the identity as derivative."""
    return straight_through(jnp.round)(x)


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

    The derivative in `bound` is 1 where `x` is clipped, else 0.

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


def learned_point(x: Array, integer_bits: Array, *, bits: int) -> Array:
    """Fixed-point numbers of `bits` bits with a learned binary point.

    The step is `2**(n - bits + 1)` with `n` the rounded number of integer bits; the derivative in
    `integer_bits` follows from that of the step, through the rounding of `n`.

    References:
      QFX: Gong et al., "Learnable fixed-point quantization on FPGAs", 2024, arXiv:2401.17544.
    """
    step = jnp.exp2(round_through(jnp.asarray(integer_bits, x.dtype)) - (bits - 1))
    top = 2.0 ** (bits - 1) - 1
    return round_through(jnp.clip(x / step, -top - 1, top)) * step


def scale_gradient(x: Array, scale: Array, cast: Cast) -> Array:
    """Casts in units of a scale and lets the gradient reach the scale: `cast(x / s) * s`.

    Inside the range the derivative in `x` is 1 and in `s` it is `cast(x / s) - x / s`; where the
    cast saturates, 0 and the saturated value.

    Args:
      x: Values.
      scale: Positive scales that broadcast against `x`.
      cast: A cast to a format, elementwise and saturating.
    """

    def slope(u: Array) -> Array:
        largest = jnp.abs(cast(jnp.full((1,), jnp.finfo(u.dtype).max, u.dtype)))
        return (jnp.abs(u) <= largest).astype(u.dtype)

    return _with_slope(cast, slope)(x / scale) * scale
