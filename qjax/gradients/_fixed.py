"""Fixed-point numbers as hardware casts to them, with a learned binary point.

A number is an integer of a few bits times a power of two. How it is rounded and what happens
beyond its range are those of the types of high-level synthesis (`ap_fixed`).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qjax import casting
from qjax._typing import Array
from qjax.formats import Codebook, Fixed
from qjax.gradients._surrogates import round_through, through
from qjax.rounding import NEAREST_EVEN, Rounding


def fixed_code(
    units: Array,
    *,
    bits: int,
    signed: bool = True,
    rounding: Rounding = NEAREST_EVEN,
    wrap: bool = False,
    codes: Codebook | None = None,
) -> Array:
    """Rounds to integers of a width, which saturate or wrap; the derivative is zero.

    The modes of `ap_fixed` by name: AP_TRN is `Floor`, AP_RND `NearestUp`, AP_RND_CONV
    `NearestEven`, AP_TRN_ZERO `TowardZero`; AP_SAT saturates, AP_WRAP wraps.

    Args:
      units: Numbers in units of one step.
      bits: Width, sign included.
      signed: Whether there are negative codes, in two's complement.
      rounding: Not stochastic.
      wrap: Whether what is out of range wraps around; else it saturates.
      codes: The only integers allowed, such as `formats.k_hot`; always saturates.

    Returns:
      Whole numbers with the dtype of `units`.
    """
    format = codes
    if format is None:
        format = Fixed(bits - int(signed), 0, signed=signed, narrow=False, wrap=wrap)
    return casting.on_format(lax.stop_gradient(units), format, rounding).astype(units.dtype)


def code_range(bits: int, signed: bool) -> tuple[int, int]:
    """The smallest and the largest code."""
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


def learned_point(
    x: Array,
    integer_bits: Array,
    *,
    bits: int,
    signed: bool = True,
    rounding: Rounding = NEAREST_EVEN,
    wrap: bool = False,
    codes: Codebook | None = None,
) -> Array:
    """Fixed-point numbers of `bits` bits with a learned binary point.

    The step is `2**(n - digits)` with `n` the rounded number of integer bits and `digits` the bits
    without the sign. The derivative in `x` is 1 inside the range and 0 outside; that in
    `integer_bits` is `log(2) * step * (code - x / step)` inside and `log(2) * step * code`
    outside, through the rounding of `n`.

    Args:
      x: Values.
      integer_bits: Bits before the binary point, without the sign; may be negative.
      bits, signed, rounding, wrap, codes: As for `fixed_code`.

    References:
      QFX, "Trainable fixed-point quantization", 2024, arXiv:2401.17544. The gradient is derived
      from that of a learned step; the paper's own form was not seen.
    """
    digits = bits - int(signed)
    exponent = round_through(jnp.asarray(integer_bits, x.dtype)) - digits
    step = power_of_two(exponent)
    units = x / step
    low, high = code_range(bits, signed)
    inside = (units >= low) & (units <= high)
    units = jnp.where(inside, units, lax.stop_gradient(units))
    options = {"bits": bits, "signed": signed, "rounding": rounding, "wrap": wrap, "codes": codes}
    return through(units, fixed_code(units, **options)) * step


@jax.custom_jvp
def power_of_two(exponent: Array) -> Array:
    """Returns `2**exponent` exactly, for whole exponents of [-126, 127]; `exp2` is not exact."""
    n = jnp.clip(exponent, -126, 127).astype(jnp.int32)
    return lax.bitcast_convert_type((n + 127) << 23, jnp.float32).astype(exponent.dtype)


@power_of_two.defjvp
def _(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    value = power_of_two(*primals)
    return value, (np.log(2).astype(np.float32) * value * tangents[0]).astype(value.dtype)
