"""The verbs `qjax.cast` and `qjax.encode`: a default Quantizer, made from a name and called."""

import dataclasses

import jax.numpy as jnp

from qjax import rounding as roundings
from qjax._typing import Array, Axes, Key
from qjax.formats import Format
from qjax.qtensor import QTensor
from qjax.qtypes import QType
from qjax.quantizer._quantizer import Quantizer


def cast(
    x: Array,
    type: QType | Format | str,
    *,
    axis: int | None = None,
    rounding: roundings.Rounding = roundings.NEAREST_EVEN,
    key: Key | None = None,
) -> Array:
    """Rounds `x` to the values of a number type, saturating: fake quantization.

    Args:
      x: Floating-point array of any shape, or what `jax.numpy.asarray` makes one of.
      type: A QType, a Format or a name such as "mxfp8", "int8" or "e4m3fn".
      axis: The axis along which scales' tiles run: by default the one that the type names (`dD`),
        otherwise the last.
      rounding: Which neighbour an element rounds to. Stochastic rounding is biased where the scale
        cuts off a tile's largest elements, as OCP's rule for MX types does: a `Quantizer` with
        `scale="rceil"` is not.
      key: Key for stochastic rounding.

    Returns:
      Array with the shape and dtype of `x`.

    Raises:
      TypeError: If `x` is not floating-point or `type` is no type.
      ValueError: If the name is unknown, the axis out of range or not the one that the type
        names, or a key is missing.
    """
    x, quantizer = jnp.asarray(x), _default(type, rounding)
    return quantizer.cast(x, contract=_along(axis, x), key=key)


def encode(
    x: Array,
    type: QType | Format | str,
    *,
    axis: int | None = None,
    rounding: roundings.Rounding = roundings.NEAREST_EVEN,
    key: Key | None = None,
) -> QTensor:
    """Returns `x` as codes and scales of a number type; arguments and errors as for `cast`."""
    x, quantizer = jnp.asarray(x), _default(type, rounding)
    return quantizer.encode(x, contract=_along(axis, x), key=key)


def _along(axis: int | None, x: Array) -> Axes | None:
    """Returns the axes of tiles; None leaves them to the type. A scalar has none."""
    if not x.ndim:
        return ()
    return None if axis is None else (axis,)


def _default(type: QType | Format | str, rounding: roundings.Rounding) -> Quantizer:
    """Returns the Quantizer of a type, its scales by the rule of the type's definition."""
    return dataclasses.replace(Quantizer(type), rounding=rounding)
