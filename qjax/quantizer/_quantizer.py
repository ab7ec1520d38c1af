"""The Quantizer: what `astype` is to a dtype, for types with scales.

Making scales is in `_scales.py`, zero points in `_affine.py`; rounding is `qjax.casting`'s.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from qjax import calibration as calibrations
from qjax import casting, qtensor, qtypes, tiling
from qjax import rounding as roundings
from qjax._typing import Array, Axes, DTypeLike, Key, Shape
from qjax.formats import INFINITY, Fixed
from qjax.qtensor import QTensor
from qjax.qtypes import QType
from qjax.quantizer import _affine, _scales
from qjax.tiling import Layout


@dataclasses.dataclass(frozen=True)
class Quantizer:
    """A map from arrays to quantized tensors.

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
        _check_kind("rounding", self.rounding, roundings.Rounding, "NearestEven()")
        _check_kind("calibration", self.calibration, calibrations.Calibration, "AbsMax()")
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
          ValueError: If an axis is out of range, or a key or a calibration's state is missing.
        """
        layout = self._layout(x, contract, batch, "cast")
        dtype = jnp.dtype(x.dtype if dtype is None else dtype)
        return self._run(_cast, x, self._checked(key), self._stateless(), layout, dtype)[0]

    def encode(
        self, x: Array, *, contract: Axes = (-1,), batch: Axes = (), key: Key | None = None
    ) -> QTensor:
        """Returns `x` as a quantized tensor; arguments and errors as for `cast`."""
        layout = self._layout(x, contract, batch, "encode")
        dtype = jnp.dtype(x.dtype)
        return self._run(_encode, x, self._checked(key), self._stateless(), layout, dtype)

    def units(
        self,
        x: Array,
        *,
        contract: Axes = (-1,),
        batch: Axes = (),
        key: Key | None = None,
        dtype: DTypeLike = jnp.float32,
    ) -> tuple[Array, Array | None]:
        """Returns the values that `cast` gives before their scale, and the scales.

        Arguments and errors are those of `cast`; `dtype` is that of the values. The scales are
        float32, one per tile, or None where the type has none.
        """
        layout = self._layout(x, contract, batch, "cast")
        dtype = jnp.dtype(dtype)
        return self._run(_units, x, self._checked(key), self._stateless(), layout, dtype)

    def init(self, shape: Shape, *, contract: Axes = (-1,), batch: Axes = ()) -> Any:
        """Returns the first state of the calibration for arrays of `shape`; `()` if stateless."""
        layout = tiling.resolve(shape, self.qtype.tile, contract, batch)
        kept = (1 if i in layout.axes else n for i, n in enumerate(layout.view_shape))
        return self.calibration.init(tuple(kept))

    def step(
        self,
        x: Array,
        state: Any,
        *,
        contract: Axes = (-1,),
        batch: Axes = (),
        key: Key | None = None,
        dtype: DTypeLike | None = None,
    ) -> tuple[Array, Any]:
        """Returns what `cast` does with a calibration's state, and the next state."""
        layout = self._layout(x, contract, batch, "step")
        dtype = jnp.dtype(x.dtype if dtype is None else dtype)
        return self._run(_cast, x, self._checked(key), state, layout, dtype)

    def _layout(self, x: Array, contract: Axes, batch: Axes, verb: str) -> Layout:
        casting.check_floating(x, verb)
        return tiling.resolve(x.shape, self.qtype.tile, contract, batch)

    def _checked(self, key: Key | None) -> Key | None:
        return casting.need_key(key, self.rounding) if self.stochastic else None

    def _stateless(self) -> tuple:
        if self.calibration.stateful:
            raise ValueError(
                f"{self.calibration!r} keeps a state, but none was given. "
                "Make one with `init(shape)` and call `step(x, state)`."
            )
        return ()

    def _run(
        self, function: Any, x: Array, key: Any, state: Any, layout: Layout, dtype: Any
    ) -> Any:
        """Runs a compiled `function`; static bits are compiled in, traced ones are arguments."""
        if all(isinstance(leaf, int | float) for leaf in jax.tree.leaves(self)):
            return _compiled(function, self, x, key, state, layout, dtype)
        return function(self, x, key, state, layout, dtype)

    def tiles(
        self, x: Array, layout: Layout, key: Any, state: Any, *, relative: bool
    ) -> tuple[Array, QTensor | None, QTensor | None, Any]:
        """Returns values (without scale where `relative`), scales, zero points and the state."""
        qtype, rounding = self.qtype, self.rounding
        noise = rounding.noise(key, x.shape) if rounding.stochastic else None
        if qtype.zero is not None:
            return *_affine.tiles(self, x, layout, noise, relative=relative), state
        bound, state = self.calibration(layout.split(x), layout.axes, state)
        bound = layout.gather(bound)
        made = self._made(x, bound, layout, key, noise, relative)
        values = _scales.elements(x, qtype.format, rounding, noise, layout, made, relative)
        return values, made.stored, None, state

    def _made(
        self, x: Array, bound: Array, layout: Layout, key: Any, noise: Any, keep: bool
    ) -> _scales.Made:
        """Returns the scales of bounds, one per tile, after a search where one was asked for."""
        format, qtype = self.qtype.format, self.qtype.scale
        assert qtype is not None

        def made(bound: Array, keep: bool) -> _scales.Made:
            if _scales.is_power(qtype):
                return _scales.powers(bound, format, qtype, self.scale, layout, keep)
            return _scales.floats(bound, format, self.scale, layout, key, keep)

        if isinstance(self.calibration, calibrations.Search):
            bounds = [_shrunk(bound, fraction) for fraction in self.calibration.fractions]
            errors = [self._error(x, layout, noise, made(part, False)) for part in bounds]
            bound = _least(bounds, errors)
        if self.scale != "search":
            return made(bound, keep)
        middle, bad = made(bound, False).exponent, bound >= INFINITY
        assert middle is not None
        steps = [middle, middle + 1, middle - 1]
        tried = [_scales.from_exponents(e, bad, qtype, layout, False) for e in steps]
        errors = [self._error(x, layout, noise, each) for each in tried]
        return _scales.from_exponents(_least(steps, errors), bad, qtype, layout, keep)

    def _error(self, x: Array, layout: Layout, noise: Any, made: _scales.Made) -> Array:
        values = _scales.elements(
            x, self.qtype.format, self.rounding, noise, layout, made, relative=False
        )
        square = (values - x.astype(jnp.float32)) ** 2
        return layout.gather(jnp.sum(layout.split(square), axis=layout.axes, keepdims=True))

    def __repr__(self) -> str:
        parts = [repr(self.qtype)]
        default = _scale_procedure(self.qtype, None)
        for field in dataclasses.fields(self)[1:]:
            value = getattr(self, field.name)
            if value != (default if field.name == "scale" else field.default):
                parts.append(f"{field.name}={value!r}")
        return f"Quantizer({', '.join(parts)})"


def _shrunk(bound: Array, fraction: float) -> Array:
    """Returns patterns of a fraction of the bounds; what is not finite stays."""
    amax = jax.lax.bitcast_convert_type(bound, jnp.float32) * jnp.float32(fraction)
    return jnp.where(bound >= INFINITY, bound, jax.lax.bitcast_convert_type(amax, jnp.int32))


def _least(options: list[Array], errors: list[Array]) -> Array:
    """Returns, per tile, the option with the least error, the first of equals."""
    best, least = options[0], errors[0]
    for option, error in zip(options[1:], errors[1:]):
        best = jnp.where(error < least, option, best)
        least = jnp.minimum(error, least)
    return best


@functools.partial(jax.jit, static_argnames=("function", "quantizer", "layout", "dtype"))
def _compiled(
    function: Any, quantizer: Quantizer, x: Array, key: Any, state: Any, layout: Layout, dtype: Any
) -> Any:
    return function(quantizer, x, key, state, layout, dtype)


def _plain(quantizer: Quantizer, x: Array, key: Any) -> Array:
    rounding = quantizer.rounding
    noise = rounding.noise(key, x.shape) if rounding.stochastic else None
    return casting.on_format(x, quantizer.qtype.format, rounding, noise)


def _cast(
    quantizer: Quantizer, x: Array, key: Any, state: Any, layout: Layout, dtype: Any
) -> tuple[Array, Any]:
    if quantizer.qtype.scale is None:
        return _plain(quantizer, x, key).astype(dtype), state
    values, _, _, state = quantizer.tiles(x, layout, key, state, relative=False)
    return values.astype(dtype), state


def _units(
    quantizer: Quantizer, x: Array, key: Any, state: Any, layout: Layout, dtype: Any
) -> tuple[Array, Array | None]:
    if quantizer.qtype.scale is None:
        return _plain(quantizer, x, key).astype(dtype), None
    values, scale, _, _ = quantizer.tiles(x, layout, key, state, relative=True)
    assert scale is not None
    return values.astype(dtype), scale.decode(jnp.float32)


def _encode(
    quantizer: Quantizer, x: Array, key: Any, state: Any, layout: Layout, dtype: Any
) -> QTensor:
    qtype = quantizer.qtype
    if qtype.scale is None:
        return qtensor.plain(_plain(quantizer, x, key), qtype, layout, dtype.name)
    values, scale, zero, _ = quantizer.tiles(x, layout, key, state, relative=True)
    return QTensor(qtype.format.store(values), scale, zero, qtype, layout, dtype.name)


def _flatten(quantizer: Quantizer) -> tuple[tuple, Any]:
    rule = quantizer.scale if isinstance(quantizer.scale, str) else None
    scale = None if rule is not None else quantizer.scale
    children = (quantizer.qtype, quantizer.calibration, quantizer.rounding, scale)
    return children, rule


def _unflatten(rule: str | None, children: tuple) -> Quantizer:
    # Leaves may be tracers or batches: the constructor must not check them.
    quantizer = object.__new__(Quantizer)
    qtype, calibration, rounding, scale = children
    object.__setattr__(quantizer, "qtype", qtype)
    object.__setattr__(quantizer, "calibration", calibration)
    object.__setattr__(quantizer, "rounding", rounding)
    object.__setattr__(quantizer, "scale", scale if rule is None else rule)
    return quantizer


jax.tree_util.register_pytree_node(Quantizer, _flatten, _unflatten)


def _check_kind(name: str, value: Any, kind: type, example: str) -> None:
    if not isinstance(value, kind):
        raise TypeError(
            f"`{name}` must be a {kind.__name__} of `qjax.{name}`, but {value!r} came. "
            f"Write for instance `{name}=qjax.{name}.{example}`."
        )


def _scale_procedure(qtype: QType, scale: Any) -> Any:
    """Returns the rule or Quantizer that makes the scale; the default where `scale` is None."""
    if qtype.scale is None:
        if scale is not None:
            raise ValueError(
                f"`Quantizer` was given scale={scale!r}, but {qtype.name} has no scale. "
                "Leave it out, or give a type with a scale."
            )
        return None
    if _scales.is_power(qtype.scale):
        # Mantissas below one are bounded by the power of two above the largest element.
        fraction = isinstance(qtype.format, Fixed) and qtype.format.integer_bits == 0
        rule = ("bfp" if fraction else "floor") if scale is None else scale
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
