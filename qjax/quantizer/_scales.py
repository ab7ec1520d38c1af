"""How scales are made: powers of two and floats. Scales of scales are in `_levels.py`.

Each function returns a `Made`: what the kernel needs to round elements, and the stored scales.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qjax import calibration as calibrations
from qjax import casting, qtensor
from qjax._typing import Array
from qjax.formats import INFINITY, NAN, Format, PowerOfTwo, extended, select
from qjax.qtensor import QTensor
from qjax.qtypes import QType
from qjax.quantizer import _levels
from qjax.quantizer._made import TINY, Made, inverse, is_float32, reciprocal, scale_layout
from qjax.tiling import Layout


def powers(
    bound: Array, format: Format, qtype: QType, rule: str, layout: Layout, keep: bool
) -> Made:
    """Returns power-of-two scales for bounds in `scale_shape`, drawn by `rule`."""
    # Subnormal bounds need their own exponents only where a scale can follow them so far down.
    ordered = bound if _ends_above_subnormals(format, qtype) else extended(bound)
    exponent = calibrations.exponent_of(ordered, format, rule)
    return from_exponents(exponent, bound >= INFINITY, qtype, layout, keep)


def _ends_above_subnormals(format: Format, qtype: QType) -> bool:
    """Whether the scale of every subnormal bound is the smallest there is, by any rule."""
    if qtype.scale is not None or not (format.static and qtype.format.static):
        return False
    assert isinstance(qtype.format, PowerOfTwo)
    return format.max_exponent >= 1 and qtype.format.min_exponent >= -127


def from_exponents(
    exponent: Array, invalid: Array, qtype: QType, layout: Layout, keep: bool
) -> Made:
    """Returns scales of exponents, clipped to what the scale's format holds.

    With a second level the inner one stores how far each subtile lies below its tile, as far as
    its bits reach: the offsets of shared microexponents.
    """
    format = qtype.format
    assert isinstance(format, PowerOfTwo)
    if qtype.scale is None:
        exponent = _held(exponent, format)
        stored = _stored_powers(exponent, invalid, qtype, layout) if keep else None
        return Made(exponent, invalid, stored=stored)
    inner = scale_layout(layout, qtype)
    axes = inner.axes
    top = inner.gather(jnp.max(inner.split(exponent, -(1 << 20)), axis=axes, keepdims=True))
    bad = inner.gather(jnp.any(inner.split(invalid), axis=axes, keepdims=True))
    outer = from_exponents(top, bad, qtype.scale, inner, keep)
    assert outer.exponent is not None
    assert outer.invalid is not None
    spread = inner.spread(outer.exponent)
    offset = jnp.clip(exponent - spread, format.min_exponent, format.top_exponent)
    stored = None
    if keep:
        codes = _stored_powers(offset, jnp.zeros_like(offset, bool), qtype, layout)
        stored = dataclasses.replace(codes, scale=outer.stored, layout=inner)
    return Made(spread + offset, inner.spread(outer.invalid), stored=stored)


def _held(exponent: Array, format: PowerOfTwo) -> Array:
    least, top = format.min_exponent, format.top_exponent
    if not format.static:
        return jnp.clip(exponent, least, top)
    return jax.lax.clamp(np.int32(least), exponent, np.int32(top))


def _stored_powers(exponent: Array, invalid: Array, qtype: QType, layout: Layout) -> QTensor:
    power = casting.times_power(jnp.ones_like(exponent, jnp.float32), exponent)
    values = select(invalid, jnp.nan, power)
    return qtensor.plain(values, qtype, scale_layout(layout, qtype))


def floats(
    bound: Array,
    format: Format,
    procedure: Any,
    layout: Layout,
    key: Any,
    keep: bool,
    *,
    stretch: Array | None = None,
) -> Made:
    """Returns float scales `bound / format.max`, made by `procedure`, a Quantizer.

    `stretch` multiplies the bounds, where a tile uses less than the range of the format.
    """
    amax = jax.lax.bitcast_convert_type(select(bound >= INFINITY, NAN, bound), jnp.float32)
    amax = amax if stretch is None else amax * stretch
    raw = jnp.maximum(amax * reciprocal(format.max), TINY)
    return from_scales(raw, amax, format, procedure, layout, key, keep)


def from_scales(
    raw: Array, amax: Array, format: Format, procedure: Any, layout: Layout, key: Any, keep: bool
) -> Made:
    """Returns scales in the procedure's type for wanted float32 scales `raw`."""
    qtype = procedure.qtype
    if is_float32(qtype):
        stored = qtensor.plain(raw, qtype, scale_layout(layout, qtype)) if keep else None
        return Made(factors=(raw,), inverse=1 / raw, stored=stored)
    outer = qtype.scale
    if outer is not None and outer.scale is None and not isinstance(outer.format, PowerOfTwo):
        if isinstance(qtype.format, PowerOfTwo):
            return _levels.snapped(amax, format, procedure, layout, keep)
        return _levels.two_levels(amax, format, procedure, layout, key, keep)
    options: dict[str, Any] = {"contract": layout.contract, "batch": layout.batch}
    if procedure.stochastic:
        options["key"] = jax.random.fold_in(key, 1)
    if outer is not None:
        # Three levels and more are multiplied in the order in which they are decoded.
        stored = procedure.encode(raw, **options)
        factors = qtensor.factors(stored)
        made = Made(factors=factors, stored=stored if keep else None)
        return dataclasses.replace(made, inverse=inverse(made.numbers()))
    stored = procedure.encode(raw, **options) if keep else None
    scale = procedure.cast(raw, **options)
    return Made(factors=(scale,), inverse=inverse(scale), stored=stored)
