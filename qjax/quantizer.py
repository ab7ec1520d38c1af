"""How a quantized tensor is made: a type, a calibration, a rounding, and the same for its scale."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qjax import calibration as calibrations
from qjax import casting, qtensor, qtypes, tiling
from qjax import rounding as roundings
from qjax._typing import Array, Axes, DTypeLike, Key
from qjax.formats import INFINITY, Fixed, Format, PowerOfTwo, extended
from qjax.qtensor import QTensor
from qjax.qtypes import QType
from qjax.tiling import Layout

TINY = 2.0**-126


@dataclasses.dataclass(frozen=True)
class Quantizer:
    """A map from arrays to quantized tensors: what `astype` is to a dtype.

    A NaN or infinity anywhere in a scaled tile makes the whole tile NaN, as its scale is NaN. An
    all-zero tile gives zeros. Scale arithmetic is float32; float scales are at least 2**-126.

    Attributes:
      qtype: What is made: a QType, a Format or a name.
      calibration: The statistic that bounds a tile.
      rounding: Which neighbour an element rounds to.
      scale: How the scale is made. For power-of-two scales one of `calibration.RULES` ("floor" by
        default; "bfp" for mantissas below one); for others a Quantizer of `qtype.scale`.
    """

    qtype: Any
    calibration: calibrations.Calibration = dataclasses.field(
        default=calibrations.AbsMax(), kw_only=True
    )
    rounding: roundings.Rounding = dataclasses.field(default=roundings.NearestEven(), kw_only=True)
    scale: Any = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self):
        object.__setattr__(self, "qtype", qtypes.normalize(self.qtype, "qtype"))
        object.__setattr__(self, "scale", _scale_procedure(self.qtype, self.scale))

    @property
    def stochastic(self) -> bool:
        """Whether a rounding inside draws random bits, so that calls need a key."""
        inner = isinstance(self.scale, Quantizer) and self.scale.stochastic
        return self.rounding.stochastic or inner

    def cast(
        self,
        x: Array,
        *,
        contract: Axes = (-1,),
        batch: Axes = (),
        key: Key | None = None,
        dtype: DTypeLike | None = None,
    ) -> Array:
        """Returns the values that `encode` stores: fake quantization.

        Args:
          x: Floating-point array.
          contract: The axes a dot product sums over; tiles run along them, several flattened.
          batch: Axes that a finite `Tile.keep` never spans.
          key: Key for stochastic rounding.
          dtype: Of the result; that of `x` by default. The conversion to it is the last step.

        Raises:
          TypeError: If `x` is not floating-point.
          ValueError: If an axis is out of range, or a key is needed and missing.
        """
        layout = self._layout(x, contract, batch, "cast")
        dtype = jnp.dtype(x.dtype if dtype is None else dtype)
        return self._run(_cast, x, self._checked(key), layout, dtype)

    def encode(
        self, x: Array, *, contract: Axes = (-1,), batch: Axes = (), key: Key | None = None
    ) -> QTensor:
        """Returns `x` as a quantized tensor; arguments and errors as for `cast`."""
        layout = self._layout(x, contract, batch, "encode")
        return self._run(_encode, x, self._checked(key), layout, jnp.dtype(x.dtype))

    def _layout(self, x: Array, contract: Axes, batch: Axes, verb: str) -> Layout:
        casting.check_floating(x, verb)
        return tiling.resolve(x.shape, self.qtype.tile, contract, batch)

    def _checked(self, key: Key | None) -> Key | None:
        return casting.need_key(key, self.rounding) if self.stochastic else None

    def _run(self, function: Any, x: Array, key: Any, layout: Layout, dtype: Any) -> Any:
        """Runs a compiled `function`; static bits are compiled in, traced ones are arguments."""
        static = all(isinstance(leaf, int | float) for leaf in jax.tree.leaves(self))
        if not static:
            return function(self, x, key, layout, dtype)
        return _compiled(function, self, x, key, layout, dtype)

    def _tiles(
        self, x: Array, layout: Layout, key: Any, relative: bool
    ) -> tuple[Array, QTensor | None]:
        """Returns the values (without their scale where `relative`) and then the scales."""
        noise = _noise(self.rounding, key, x)
        bound, _ = self.calibration(layout.split(x), layout.axes)
        bound = layout.gather(bound)
        assert self.qtype.scale is not None
        if isinstance(self.qtype.scale.format, PowerOfTwo) and self.qtype.scale.scale is None:
            return self._power_tiles(x, layout, noise, bound, relative)
        return self._float_tiles(x, layout, noise, bound, key, relative)

    def _power_tiles(
        self, x: Array, layout: Layout, noise: Any, bound: Array, relative: bool
    ) -> tuple[Array, QTensor | None]:
        format, qtype = self.qtype.format, self.qtype.scale
        exponent = calibrations.exponent_of(extended(bound), format, self.scale)
        exponent = jnp.clip(exponent, qtype.format.min_exponent, qtype.format.top_exponent)
        invalid = bound >= INFINITY
        values = casting.on_format(
            x,
            format,
            self.rounding,
            noise,
            exponent=layout.spread(exponent),
            relative=relative,
            invalid=layout.spread(invalid),
        )
        if not relative:
            return values, None
        power = casting.times_power(jnp.ones(exponent.shape, jnp.float32), exponent)
        power = jnp.where(invalid, jnp.nan, power)
        return values, qtensor.plain(power, qtype, _scale_layout(layout, qtype))

    def _float_tiles(
        self, x: Array, layout: Layout, noise: Any, bound: Array, key: Any, relative: bool
    ) -> tuple[Array, QTensor | None]:
        amax = jax.lax.bitcast_convert_type(bound, jnp.float32)
        raw = jnp.maximum(amax * _reciprocal(self.qtype.format.max), TINY)
        raw = jnp.where(bound >= INFINITY, jnp.nan, raw)
        options = {"contract": layout.contract, "batch": layout.batch, "key": key}
        stored = self.scale.encode(raw, **options) if relative else None
        scale = raw if _is_float32(self.scale) else self.scale.cast(raw, **options)
        wide = jnp.promote_types(x.dtype, jnp.float32)
        inverse = layout.spread(jnp.where(scale == 0, 0, 1 / scale)).astype(wide)
        values = casting.on_format(
            x.astype(wide) * inverse, self.qtype.format, self.rounding, noise
        )
        return (values, stored) if relative else (values * layout.spread(scale), None)

    def __repr__(self) -> str:
        parts = [repr(self.qtype)]
        for field in dataclasses.fields(self)[1:]:
            value = getattr(self, field.name)
            if value != field.default and value != _scale_procedure(self.qtype, None):
                parts.append(f"{field.name}={value!r}")
        return f"Quantizer({', '.join(parts)})"


@functools.partial(jax.jit, static_argnames=("function", "quantizer", "layout", "dtype"))
def _compiled(
    function: Any, quantizer: Quantizer, x: Array, key: Any, layout: Layout, dtype: Any
) -> Any:
    return function(quantizer, x, key, layout, dtype)


def _cast(quantizer: Quantizer, x: Array, key: Any, layout: Layout, dtype: Any) -> Array:
    format, rounding = quantizer.qtype.format, quantizer.rounding
    if quantizer.qtype.scale is None:
        noise = _noise(rounding, key, x)
        return casting.on_format(x, format, rounding, noise).astype(dtype)
    values, _ = quantizer._tiles(x, layout, key, relative=False)
    return values.astype(dtype)


def _encode(quantizer: Quantizer, x: Array, key: Any, layout: Layout, dtype: Any) -> QTensor:
    qtype, rounding = quantizer.qtype, quantizer.rounding
    if qtype.scale is None:
        noise = _noise(rounding, key, x)
        values = casting.on_format(x, qtype.format, rounding, noise)
        return qtensor.plain(values, qtype, layout, dtype.name)
    values, scale = quantizer._tiles(x, layout, key, relative=True)
    codes = qtype.format.store(values)
    return QTensor(codes, scale, None, qtype, layout, dtype.name)


def _flatten(quantizer: Quantizer) -> tuple[tuple, Any]:
    rule = quantizer.scale if isinstance(quantizer.scale, str) else None
    scale = None if rule is not None else quantizer.scale
    children = (quantizer.qtype, quantizer.calibration, quantizer.rounding, scale)
    return children, rule


def _unflatten(rule: str | None, children: tuple) -> Quantizer:
    quantizer = object.__new__(Quantizer)
    qtype, calibration, rounding, scale = children
    object.__setattr__(quantizer, "qtype", qtype)
    object.__setattr__(quantizer, "calibration", calibration)
    object.__setattr__(quantizer, "rounding", rounding)
    object.__setattr__(quantizer, "scale", scale if rule is None else rule)
    return quantizer


jax.tree_util.register_pytree_node(Quantizer, _flatten, _unflatten)


def _scale_procedure(qtype: QType, scale: Any) -> Any:
    """Returns the rule or Quantizer that makes the scale; the default where `scale` is None."""
    if qtype.scale is None:
        if scale is not None:
            raise ValueError(
                f"`Quantizer` was given scale={scale!r}, but {qtype.name} has no scale. "
                "Leave it out, or give a type with a scale."
            )
        return None
    if isinstance(qtype.scale.format, PowerOfTwo) and qtype.scale.scale is None:
        # Mantissas below one are bounded by the power of two above the largest element.
        fraction = isinstance(qtype.format, Fixed) and qtype.format.integer_bits == 0
        default = "bfp" if fraction else "floor"
        rule = default if scale is None else scale
        if rule not in calibrations.RULES:
            raise ValueError(
                f"`Quantizer` was given scale={scale!r} for a power-of-two scale. "
                f"Choose one of {', '.join(calibrations.RULES)}."
            )
        return rule
    if scale is None:
        return Quantizer(qtype.scale)
    if not isinstance(scale, Quantizer) or scale.qtype != qtype.scale:
        raise ValueError(
            f"`Quantizer` was given scale={scale!r} for scales of type {qtype.scale.name}. "
            "Give a Quantizer of that type, or leave it out."
        )
    return scale


def _is_float32(scale: Quantizer) -> bool:
    """Whether scales are stored as they come."""
    return scale.qtype.format.static and scale.qtype == qtypes.FLOAT32_SCALE


def _noise(rounding: roundings.Rounding, key: Any, x: Array) -> Array | None:
    return rounding.noise(key, x.shape) if rounding.stochastic else None


def _reciprocal(value: Any) -> Any:
    """Returns `1 / value` rounded to float32, the same for static and traced numbers."""
    if isinstance(value, float):
        return np.float32(1) / np.float32(value)
    return 1 / value


def _scale_layout(layout: Layout, qtype: QType) -> Layout:
    return tiling.resolve(layout.scale_shape, qtype.tile, layout.contract, layout.batch)


def cast(
    x: Array,
    type: QType | Format | str,
    *,
    axis: int = -1,
    rounding: roundings.Rounding = roundings.NEAREST_EVEN,
    key: Key | None = None,
) -> Array:
    """Rounds `x` to the values of a number type, saturating: fake quantization.

    Args:
      x: Floating-point array of any shape.
      type: A QType, a Format or a name such as "mxfp8", "int8" or "e4m3fn".
      axis: The axis along which scales' tiles run.
      rounding: Which neighbour an element rounds to.
      key: Key for stochastic rounding.

    Returns:
      Array with the shape and dtype of `x`.

    Raises:
      TypeError: If `x` is not floating-point or `type` is no type.
      ValueError: If the name is unknown, the axis out of range, or a key is missing.
    """
    quantizer = Quantizer(type, rounding=rounding)
    return quantizer.cast(x, contract=(axis,) if x.ndim else (), key=key)


def encode(
    x: Array,
    type: QType | Format | str,
    *,
    axis: int = -1,
    rounding: roundings.Rounding = roundings.NEAREST_EVEN,
    key: Key | None = None,
) -> QTensor:
    """Returns `x` as codes and scales of a number type; arguments and errors as for `cast`."""
    quantizer = Quantizer(type, rounding=rounding)
    return quantizer.encode(x, contract=(axis,) if x.ndim else (), key=key)
