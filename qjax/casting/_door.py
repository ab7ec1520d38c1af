"""The verb `cast` for formats without scales, and the checks that all casts share."""

from typing import Any

import jax
import jax.numpy as jnp

from qjax import rounding as roundings
from qjax._typing import Array, Key
from qjax.casting._format import on_format
from qjax.casting._wide import converted
from qjax.formats import Format, FourthRoots


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
    check_kind(x, format, "cast")
    if rounding.stochastic:
        need_key(key, rounding)
    if format.static:
        return _compiled(x, format, rounding, key)
    return _cast(x, format, rounding, key)


def _cast(x: Array, format: Format, rounding: roundings.Rounding, key: Key | None) -> Array:
    noise = rounding.noise(key, x.shape) if rounding.stochastic and key is not None else None
    return converted(on_format(x, format, rounding, noise), x.dtype)


_compiled = jax.jit(_cast, static_argnames=("format", "rounding"))


def check_kind(x: Array, format: Format, verb: str) -> None:
    """Raises TypeError where `x` is no array of floats; of complex numbers for complex formats."""
    if not isinstance(format, FourthRoots):
        check_floating(x, verb)
    elif not jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise TypeError(
            f"`{verb}` takes complex numbers to the fourth roots of unity, but `x` has dtype "
            f"{x.dtype}. Give a complex array."
        )


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
