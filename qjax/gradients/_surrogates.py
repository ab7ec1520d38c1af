"""Derivatives that stand in for that of a cast: identities, masks and surrogates.

Where a mask or an identity is all there is, forward mode works too (`custom_jvp`).
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


@jax.custom_jvp
def _scaled(factor: Any, x: Array) -> Array:
    return x


@_scaled.defjvp
def _(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    factor, x = primals
    return _scaled(factor, x), tangents[1] * jnp.asarray(factor, x.dtype)


def round_through(x: Array) -> Array:
    """Rounds to whole numbers, ties to even, with the identity as derivative."""
    return straight_through(jnp.round)(x)


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
