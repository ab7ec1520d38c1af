"""Types with a zero point: `x ~ (qvalue - zero_point) * scale`."""

from typing import Any

import jax.numpy as jnp

from qjax import casting, qtensor
from qjax._typing import Array
from qjax.qtensor import QTensor
from qjax.quantizer import _made, _scales
from qjax.tiling import Layout


def tiles(
    quantizer: Any, whole: Array, x: Array, layout: Layout, noise: Any, *, relative: bool
) -> tuple[Array, QTensor | None, QTensor | None]:
    """Returns values (codes' values where `relative`), scales and zero points.

    Limits are those of `whole`, of which `x` is what the type keeps. The calibration's limits,
    widened to hold zero, go to the ends of the format; the zero point is rounded to its own
    format, so zero is exact where that is an integer one.
    """
    format, zero_type = quantizer.qtype.format, quantizer.qtype.zero
    low, high = quantizer.calibration.limits(layout.split(whole), layout.axes)
    low, high = layout.gather(low), layout.gather(high)
    bottom, span = format.min, format.max - format.min
    # A NaN or infinity makes the span NaN, and with it the whole tile.
    extent = jnp.where(jnp.isfinite(high - low), high - low, jnp.nan)
    raw = jnp.maximum(extent * _made.reciprocal(span), _made.TINY)
    made = _scales.from_scales(raw, extent, format, quantizer.scale, layout, None, relative)
    inverse = made.inverse
    assert inverse is not None
    zero = casting.on_format(bottom - low * inverse, zero_type.format)
    scaled = x.astype(jnp.float32) * layout.spread(inverse) + layout.spread(zero)
    values = casting.on_format(scaled, format, quantizer.rounding, noise)
    if not relative:
        values = values - layout.spread(zero)
        for factor in made.factors:  # In the order in which levels are decoded.
            values = values * layout.spread(factor)
        return values, None, None
    stored = qtensor.plain(zero, zero_type, _made.scale_layout(layout, zero_type))
    return values, made.stored, stored
