"""How scales are made: powers of two, floats, and scales of scales.

Each function returns a `Made`: what the kernel needs to round elements, and the stored scales.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qjax import calibration as calibrations
from qjax import casting, qtensor, qtypes, tiling
from qjax import rounding as roundings
from qjax._typing import Array
from qjax.formats import INFINITY, Float, Format, PowerOfTwo, extended
from qjax.qtensor import QTensor
from qjax.qtypes import QType
from qjax.tiling import Layout

TINY = 2.0**-126
HUGE = 2.0**126


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


def powers(
    bound: Array, format: Format, qtype: QType, rule: str, layout: Layout, keep: bool
) -> Made:
    """Returns power-of-two scales for bounds in `scale_shape`, drawn by `rule`."""
    exponent = calibrations.exponent_of(extended(bound), format, rule)
    return from_exponents(exponent, bound >= INFINITY, qtype, layout, keep)


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
        exponent = jnp.clip(exponent, format.min_exponent, format.top_exponent)
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
        codes = _stored_powers(offset, jnp.zeros(offset.shape, bool), qtype, layout)
        stored = dataclasses.replace(codes, scale=outer.stored, layout=inner)
    return Made(spread + offset, inner.spread(outer.invalid), stored=stored)


def _stored_powers(exponent: Array, invalid: Array, qtype: QType, layout: Layout) -> QTensor:
    power = casting.times_power(jnp.ones(exponent.shape, jnp.float32), exponent)
    values = jnp.where(invalid, jnp.nan, power)
    return qtensor.plain(values, qtype, scale_layout(layout, qtype))


def floats(
    bound: Array, format: Format, procedure: Any, layout: Layout, key: Any, keep: bool
) -> Made:
    """Returns float scales `bound / format.max`, made by `procedure`, a Quantizer."""
    amax = jax.lax.bitcast_convert_type(bound, jnp.float32)
    amax = jnp.where(bound >= INFINITY, jnp.nan, amax)
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
        return _two_levels(amax, format, procedure, layout, key, keep)
    options: dict[str, Any] = {"contract": layout.contract, "batch": layout.batch}
    if procedure.stochastic:
        options["key"] = jax.random.fold_in(key, 1)
    stored = procedure.encode(raw, **options) if keep else None
    scale = procedure.cast(raw, **options)
    return Made(factors=(scale,), inverse=_inverse(scale), stored=stored)


def _two_levels(
    amax: Array, format: Format, procedure: Any, layout: Layout, key: Any, keep: bool
) -> Made:
    """Returns scales that have float scales themselves, in the order of NVFP4.

    `encode = max * scale_max / amax(tile of tiles)`; the inner scale is `amax * (encode / max)`,
    rounded; elements are multiplied by `1 / (inner / encode)`.

    References:
      NVIDIA, "Pretraining large language models with NVFP4", arXiv:2509.25149, appendix B.
    """
    qtype = procedure.qtype
    inner = scale_layout(layout, qtype)
    known = jnp.where(jnp.isnan(amax), 0, amax)
    top = inner.gather(jnp.max(inner.split(known), axis=inner.axes, keepdims=True, initial=0))
    encode = jnp.minimum(format.max * qtype.format.max / jnp.where(top > 0, top, 1), HUGE)
    decode = casting.on_format(1 / encode, qtype.scale.format)
    encode = jnp.where(decode == 1 / encode, encode, _inverse(decode))
    if not (isinstance(qtype.format, Float) and qtype.format.family != "finite"):
        # A scale that cannot be NaN itself passes it on to the scale of its own tile.
        bad = jnp.any(inner.split(jnp.isnan(amax)), axis=inner.axes, keepdims=True)
        decode = jnp.where(inner.gather(bad), jnp.nan, decode)
    wanted = amax * inner.spread(encode * reciprocal(format.max))
    rounding, noise = procedure.rounding, None
    if rounding.stochastic:
        noise = rounding.noise(jax.random.fold_in(key, 1), wanted.shape)
    scale = casting.on_format(wanted, qtype.format, rounding, noise)
    stored = None
    if keep:
        outer = qtensor.plain(decode, qtype.scale, scale_layout(inner, qtype.scale))
        codes = qtensor.plain(scale, qtype, inner)
        stored = dataclasses.replace(codes, scale=outer)
    wide = inner.spread(decode)
    return Made(factors=(scale, wide), inverse=_inverse(scale * wide), stored=stored)


def _inverse(scale: Array) -> Array:
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
        return casting.on_format(
            x,
            format,
            rounding,
            noise,
            exponent=layout.spread(made.exponent),
            relative=relative,
            invalid=None if made.invalid is None else layout.spread(made.invalid),
        )
    assert made.inverse is not None
    wide = jnp.promote_types(x.dtype, jnp.float32)
    scaled = x.astype(wide) * layout.spread(made.inverse).astype(wide)
    values = casting.on_format(scaled, format, rounding, noise)
    if relative:
        return values
    for factor in made.factors:
        values = values * layout.spread(factor)
    return values
