"""Scales that are made: what the kernel needs to round elements, and how it does."""

import dataclasses
import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qjax import casting, qtypes, tiling
from qjax import rounding as roundings
from qjax._typing import Array
from qjax.formats import INFINITY, Format, PowerOfTwo
from qjax.qtensor import QTensor
from qjax.qtypes import QType
from qjax.tiling import Layout

TINY = 2.0**-126
HUGE = 2.0**126


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Made:
    """Scales, one per tile.

    Attributes:
      exponent: Exponents where scales are powers of two, else None.
      invalid: Where a power-of-two scale is NaN.
      factors: Float scales of every level, innermost first, each in `scale_shape`.
      inverse: What the elements are multiplied by before they are rounded.
      stored: The scales as a quantized tensor; None where nobody asked.
    """

    exponent: Array | None = None
    invalid: Array | None = None
    factors: tuple[Array, ...] = ()
    inverse: Array | None = None
    stored: QTensor | None = None

    def numbers(self) -> Array:
        """Returns the float32 scales, all levels together."""
        if self.exponent is None:
            return functools.reduce(operator.mul, self.factors)
        power = casting.times_power(jnp.ones(self.exponent.shape, jnp.float32), self.exponent)
        return power if self.invalid is None else jnp.where(self.invalid, jnp.nan, power)


def is_power(qtype: QType | None) -> bool:
    """Whether scales of this type are powers of two at every level."""
    while qtype is not None:
        if not isinstance(qtype.format, PowerOfTwo):
            return False
        qtype = qtype.scale
    return True


def is_float32(qtype: QType | None) -> bool:
    """Whether scales are stored as they come."""
    return qtype is not None and qtype.format.static and qtype == qtypes.FLOAT32_SCALE


def scale_layout(layout: Layout, qtype: QType) -> Layout:
    """Returns where the tiles of the array of scales lie."""
    return tiling.resolve(layout.scale_shape, qtype.tile, layout.contract, layout.batch)


def inverse(scale: Array) -> Array:
    return jnp.where(scale == 0, 0, jnp.minimum(1 / scale, np.finfo(np.float32).max))


def reciprocal(value: Any) -> Any:
    """Returns `1 / value` rounded to float32, the same for static and traced numbers."""
    if isinstance(value, float):
        return np.float32(1) / np.float32(value)
    return 1 / value


def elements(
    x: Array,
    format: Format,
    rounding: roundings.Rounding,
    noise: Array | None,
    layout: Layout,
    made: Made,
    relative: bool,
) -> Array:
    """Returns the rounded elements, with their scales unless `relative`."""
    if made.exponent is not None:
        assert made.invalid is not None
        return casting.on_format(
            x,
            format,
            rounding,
            noise,
            exponent=layout.spread(made.exponent),
            relative=relative,
            highest=layout.spread(jnp.where(made.invalid, -1, INFINITY)),
        )
    assert made.inverse is not None
    wide = jnp.float64 if x.dtype == jnp.float64 else jnp.float32
    scaled = x.astype(wide) * layout.spread(made.inverse).astype(wide)
    values = casting.on_format(scaled, format, rounding, noise)
    if relative:
        return values
    for factor in made.factors:
        values = values * layout.spread(factor)
    return values
