"""The Quantizer: what `astype` is to a dtype, for types with scales.

What it does to an array is in `_steps.py`.
"""

import dataclasses
import warnings
from typing import Any

import jax
import jax.numpy as jnp

from qjax import calibration as calibrations
from qjax import casting, qtensor, qtypes, tiling
from qjax import rounding as roundings
from qjax._typing import Array, Axes, DTypeLike, Key, Shape
from qjax.formats import Dyadic, Fixed, PowerOfTwo
from qjax.qtensor import QTensor
from qjax.qtypes import QType
from qjax.quantizer import _made, _steps
from qjax.tiling import Layout

CLIPPED = (
    "A Quantizer of {} rounds stochastically, but its power-of-two scales are drawn by the rule "
    "'floor', which cuts off the largest elements of a tile, so that the mean is biased. Give "
    "scale='rceil' for unbiased noise, or scale='floor' to keep the rule of OCP."
)


@dataclasses.dataclass(frozen=True)
class Quantizer:
    """A map from arrays to quantized tensors.

    Stochastic rounding is unbiased where no element saturates. Of the rules for power-of-two
    scales "ceil", "rceil" and "topbinade" see to that; by "floor", the rule of OCP and the default,
    elements beyond the format's largest value are cut off, and their mean is too small. A
    stochastic Quantizer that leaves the rule open therefore warns, one that names it does not.
    Float scales of few bits can cut off as well: have them rounded up (`Ceil()`).

    A NaN or infinity anywhere in a scaled tile makes the whole tile NaN, as its scale is NaN (where
    the calibration sees it: a fixed bound does not, nor a percentile below an infinity). An
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
        chosen = self.scale is not None
        object.__setattr__(self, "scale", _scale_procedure(self.qtype, self.scale))
        if self.scale == "floor" and self.rounding.stochastic and not chosen:
            warnings.warn(CLIPPED.format(self.qtype.name), stacklevel=3)
        _check_bounded(self.qtype, self.calibration)

    @property
    def stochastic(self) -> bool:
        """Whether a rounding inside draws random bits, so that calls need a key."""
        inner = isinstance(self.scale, Quantizer) and self.scale.stochastic
        return self.rounding.stochastic or inner

    def cast(
        self,
        x: Array,
        *,
        contract: Axes | None = None,
        batch: Axes = (),
        key: Key | None = None,
        dtype: DTypeLike | None = None,
    ) -> Array:
        """Returns the values that `encode` stores: fake quantization, with derivative zero.

        Args:
          x: Floating-point array.
          contract: The axes a dot product sums over; tiles run along them, several flattened. By
            default the axis that the type names, or the last.
          batch: Axes that a finite `Tile.keep` never spans.
          key: Key for stochastic rounding.
          dtype: Of the result; that of `x` by default. The conversion to it is the last step.

        Raises:
          TypeError: If `x` is not floating-point.
          ValueError: If an axis is out of range, or a key or a calibration's state is missing.
        """
        layout = self._layout(x, contract, batch, "cast")
        dtype = jnp.dtype(x.dtype if dtype is None else dtype)
        return self._run(_steps.cast, x, self._checked(key), self._stateless(), layout, dtype)[0]

    def encode(
        self, x: Array, *, contract: Axes | None = None, batch: Axes = (), key: Key | None = None
    ) -> QTensor:
        """Returns `x` as a quantized tensor; arguments and errors as for `cast`."""
        layout = self._layout(x, contract, batch, "encode")
        dtype = jnp.dtype(x.dtype)
        return self._run(_steps.encode, x, self._checked(key), self._stateless(), layout, dtype)

    def units(
        self,
        x: Array,
        *,
        contract: Axes | None = None,
        batch: Axes = (),
        key: Key | None = None,
        dtype: DTypeLike = jnp.float32,
        state: Any = None,
    ) -> tuple[Array, Array | None]:
        """Returns the values that `cast` gives before their scale, and the scales.

        Arguments and errors are those of `cast`; `dtype` is that of the values, and `state` is
        read where the calibration keeps one. The scales are float32, one per tile, or None
        where the type has none.
        """
        layout = self._layout(x, contract, batch, "cast")
        dtype, state = jnp.dtype(dtype), self._stateless() if state is None else state
        return self._run(_steps.units, x, self._checked(key), state, layout, dtype)

    def kept(self, x: Array, *, contract: Axes | None = None, batch: Axes = ()) -> Array | None:
        """Returns which elements the type's sparsity keeps, bool; None where it keeps them all."""
        layout = self._layout(x, contract, batch, "kept")
        sparsity = self.qtype.sparsity
        return None if sparsity is None else qtensor.kept(x, sparsity, layout)

    def init(self, shape: Shape, *, contract: Axes | None = None, batch: Axes = ()) -> Any:
        """Returns the first state of the calibration for arrays of `shape`; `()` if stateless."""
        layout = tiling.resolve(shape, self.qtype.tile, contract, batch)
        kept = (1 if i in layout.axes else n for i, n in enumerate(layout.view_shape))
        return self.calibration.init(tuple(kept))

    def step(
        self,
        x: Array,
        state: Any,
        *,
        contract: Axes | None = None,
        batch: Axes = (),
        key: Key | None = None,
        dtype: DTypeLike | None = None,
    ) -> tuple[Array, Any]:
        """Returns what `cast` does with a calibration's state, and the next state."""
        layout = self._layout(x, contract, batch, "step")
        dtype = jnp.dtype(x.dtype if dtype is None else dtype)
        return self._run(_steps.cast, x, self._checked(key), state, layout, dtype)

    def _layout(self, x: Array, contract: Axes | None, batch: Axes, verb: str) -> Layout:
        casting.check_kind(x, self.qtype.format, verb)
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
        return _fixed(function, self, x, key, state, layout, dtype)

    def __repr__(self) -> str:
        parts = [repr(self.qtype)]
        default = _scale_procedure(self.qtype, None) if self.qtype.format.static else None
        if self.rounding.stochastic and default == "floor":
            default = None  # A rule that is left open would warn where the repr is read back.
        for field in dataclasses.fields(self)[1:]:
            value = getattr(self, field.name)
            if value != (default if field.name == "scale" else field.default):
                parts.append(f"{field.name}={value!r}")
        return f"Quantizer({', '.join(parts)})"


def _fixed(
    function: Any, quantizer: Quantizer, x: Array, key: Any, state: Any, layout: Layout, dtype: Any
) -> Any:
    # The derivative is zero, also where values are rounded by sums, whose derivative is one.
    x, state = jax.lax.stop_gradient((x, state))
    return function(quantizer, x, key, state, layout, dtype)


_compiled = jax.jit(_fixed, static_argnames=("function", "quantizer", "layout", "dtype"))


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


def _check_bounded(qtype: QType, calibration: calibrations.Calibration) -> None:
    """Refuses a calibration where there is nothing to find from its bound."""
    if qtype.scale is None and qtype.zero is None and calibration != calibrations.AbsMax():
        raise ValueError(
            f"`Quantizer` was given calibration={calibration!r}, but {qtype.name} has neither a "
            "scale nor a zero point to find from it. Leave it out, or give a type with a scale, "
            f'such as "{qtype.name}:float32".'
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
    if _made.is_power(qtype.scale):
        if qtype.zero is not None:
            raise ValueError(
                f"`Quantizer` was given {qtype.name}, whose zero point goes with a float scale, "
                "not with powers of two. Give another type, such as 'uint4_group32'."
            )
        rule = _usual_rule(qtype) if scale is None else scale
        if rule not in calibrations.RULES:
            raise ValueError(
                f"`Quantizer` was given scale={scale!r} for a power-of-two scale. "
                f"Choose one of {', '.join(calibrations.RULES)}."
            )
        return rule
    # Powers of two below a float are snapped up, so that no element saturates; the multipliers of
    # dyadic numbers are rounded half up, as published.
    snapped = isinstance(qtype.scale.format, PowerOfTwo)
    rounding = roundings.AwayFromZero() if snapped else roundings.NearestEven()
    if isinstance(qtype.scale.format, Dyadic):
        rounding = roundings.NearestAway()
    if scale is None:
        return Quantizer(qtype.scale, rounding=rounding)
    if snapped and isinstance(scale, Quantizer) and scale.rounding != rounding:
        raise ValueError(
            f"`Quantizer` was given scale={scale!r}, but powers of two below a float are rounded "
            f"up, exactly. Give rounding={rounding!r}, or leave the scale's Quantizer out."
        )
    if not isinstance(scale, Quantizer) or scale.qtype != qtype.scale:
        raise ValueError(
            f"`Quantizer` was given scale={scale!r} for scales of type {qtype.scale.name}. "
            "Give a Quantizer of that type, or leave it out."
        )
    return scale


def _usual_rule(qtype: QType) -> str:
    """Returns the rule that the definition of a type with power-of-two scales has."""
    if not isinstance(qtype.format, Fixed):
        return "floor"
    digits = qtype.format.integer_bits
    if not isinstance(digits, int):
        raise ValueError(
            "`Quantizer` was given Fixed elements whose bits are traced, and no rule for their "
            "power-of-two scales, which depends on the integer bits. "
            "Give a Quantizer with scale='bfp' (mantissas below one) or scale='floor' (others)."
        )
    # Mantissas below one are bounded by the power of two above the largest element.
    return "bfp" if digits == 0 else "floor"
