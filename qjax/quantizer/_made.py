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
from qjax.formats import INFINITY, NAN, Choice, Codebook, Format, FourthRoots, PowerOfTwo, select
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
      factors: Float scales of every level, innermost first, each in `scale_shape` or one for all.
      inverse: What the elements are multiplied by before they are rounded.
      stored: The scales as a quantized tensor; None where nobody asked.
      shift: Instead of exponents, what the kernel reads of them.
      nans: Whether an element may be NaN where its float scales are not.
    """

    exponent: Array | None = None
    invalid: Array | None = None
    factors: tuple[Array, ...] = ()
    inverse: Array | None = None
    stored: QTensor | None = None
    shift: casting.Shift | None = None
    nans: bool = dataclasses.field(default=True, metadata={"static": True})

    def numbers(self) -> Array:
        """Returns the float32 scales, all levels together."""
        exponent, invalid = self.exponent, self.invalid
        if self.shift is not None:
            exponent, invalid = self.shift.steps >> 23, self.shift.steps == NAN
        if exponent is None:
            return functools.reduce(operator.mul, self.factors)
        power = casting.times_power(jnp.ones_like(exponent, jnp.float32), exponent)
        return power if invalid is None else select(invalid, jnp.nan, power)

    def ready(self, x: Array, format: Format, qtype: QType, bounded: bool) -> "Made":
        """Returns the scales as the kernel reads them, where it takes its short way.

        `bounded` says that no element is far above what its scale was made for, and none is NaN
        where its scale is not.
        """
        if self.exponent is None:
            return dataclasses.replace(self, nans=not bounded)
        table = isinstance(format, Codebook | Choice | FourthRoots)
        table = table or getattr(format, "wrap", False)
        if table or x.dtype == jnp.float64 or not casting.fits(format.grid):
            return self
        assert isinstance(qtype.format, PowerOfTwo)
        static = qtype.scale is None and qtype.format.static
        shift = casting.shift_of(
            format.grid,
            self.exponent,
            self.invalid,
            bounded=bounded,
            least=qtype.format.min_exponent if static else None,
        )
        return Made(stored=self.stored, shift=shift)


def is_power(qtype: QType | None) -> bool:
    """Whether scales of this type are powers of two at every level."""
    while qtype is not None:
        if not isinstance(qtype.format, PowerOfTwo):
            return False
        qtype = qtype.scale
    return True


def follows(qtype: QType) -> bool:
    """Whether scales of this type reach up to one, and are NaN where they are to be."""
    outer, format = qtype.scale, qtype.format
    if isinstance(format, PowerOfTwo):
        return outer is None and format.static and format.top_exponent >= 0
    return outer is None or (outer.scale is None and not isinstance(outer.format, PowerOfTwo))


def is_float32(qtype: QType | None) -> bool:
    """Whether scales are stored as they come."""
    return qtype is not None and qtype.format.static and qtype == qtypes.FLOAT32_SCALE


def scale_layout(layout: Layout, qtype: QType) -> Layout:
    """Returns where the tiles of the array of scales lie."""
    return tiling.resolve(layout.scale_shape, qtype.tile, layout.contract, layout.batch)


def inverse(scale: Array) -> Array:
    return select(scale == 0, 0, jnp.minimum(1 / scale, np.finfo(np.float32).max))


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
    counted: bool = False,
) -> Array:
    """Returns the rounded elements, with their scales unless `relative`.

    `counted` ones become integers, beside scales that tell of NaN.
    """
    if made.shift is not None:
        shift = jax.tree.map(layout.spread, made.shift)
        return casting.on_shifted(x, format.grid, rounding, noise, shift, relative)
    if made.exponent is not None:
        assert made.invalid is not None
        return casting.on_format(
            x,
            format,
            rounding,
            noise,
            exponent=layout.spread(made.exponent),
            relative=relative,
            highest=layout.spread(select(made.invalid, -1, INFINITY)),
        )
    assert made.inverse is not None
    wide = jnp.float64 if x.dtype == jnp.float64 else jnp.float32
    spread = layout.spread(made.inverse)
    known = None if relative or made.nans else spread
    options = {"scale": known, "counted": counted and relative and not made.nans}
    values = casting.on_format(
        x.astype(wide) * spread.astype(wide), format, rounding, noise, **options
    )
    if relative:
        return values
    for factor in made.factors:
        values = values * layout.spread(factor)
    return values
