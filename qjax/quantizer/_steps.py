"""What a Quantizer does to an array: bounds, then scales, then rounded elements.

Making scales is in `_scales.py`, zero points in `_affine.py`; rounding is `qjax.casting`'s.
"""

from typing import Any

import jax
import jax.numpy as jnp

from qjax import calibration as calibrations
from qjax import casting, qtensor
from qjax._typing import Array
from qjax.apart import apart
from qjax.formats import INFINITY, Choice
from qjax.qtensor import QTensor
from qjax.quantizer import _affine, _choices, _made, _scales
from qjax.tiling import Layout


def _plain(quantizer: Any, x: Array, key: Any, layout: Layout) -> Array:
    x = pruned(quantizer, x, layout)
    noise = _noise(quantizer, x, key)
    return casting.on_format(x, quantizer.qtype.format, quantizer.rounding, noise)


def cast(
    quantizer: Any, x: Array, key: Any, state: Any, layout: Layout, dtype: Any
) -> tuple[Array, Any]:
    """Returns the rounded values and the calibration's next state."""
    if quantizer.qtype.scale is None:
        return casting.converted(_plain(quantizer, x, key, layout), dtype), state
    values, _, _, state = tiles(quantizer, x, layout, key, state, relative=False)
    return casting.converted(values, dtype), state


def units(
    quantizer: Any, x: Array, key: Any, state: Any, layout: Layout, dtype: Any
) -> tuple[Array, Array | None]:
    """Returns the rounded values before their scale, and the float32 scales, one per tile."""
    if quantizer.qtype.scale is None:
        return _plain(quantizer, x, key, layout).astype(dtype), None
    if quantizer.qtype.zero is not None:
        values, stored, _, _ = tiles(quantizer, x, layout, key, state, relative=True)
        assert stored is not None
        return values.astype(dtype), stored.decode(jnp.float32)
    # Scales that nobody stores need no codes.
    counted = jnp.issubdtype(dtype, jnp.integer)
    options = {"relative": True, "keep": False, "counted": counted}
    values, made, _ = _rounded(quantizer, x, layout, key, state, **options)
    return values.astype(dtype), made.numbers()


def encode(quantizer: Any, x: Array, key: Any, state: Any, layout: Layout, dtype: Any) -> QTensor:
    """Returns codes and scales; what is not kept is zero, in a tile of NaN too."""
    tensor = _encoded(quantizer, x, key, state, layout, dtype)
    if quantizer.qtype.sparsity is None:
        return tensor
    return qtensor.cleared(tensor, qtensor.kept(x, quantizer.qtype.sparsity, layout))


def _encoded(quantizer: Any, x: Array, key: Any, state: Any, layout: Layout, dtype: Any) -> QTensor:
    qtype = quantizer.qtype
    if qtype.scale is None:
        return qtensor.plain(_plain(quantizer, x, key, layout), qtype, layout, dtype.name)
    if isinstance(qtype.format, Choice):
        bound, noise, _ = _bound(quantizer, x, layout, key, state)
        x = pruned(quantizer, x, layout)
        codes, scale = _choices.codes(quantizer, x, bound, layout, key, noise)
        return QTensor(codes, scale, None, qtype, layout, dtype.name)
    values, scale, zero, _ = tiles(quantizer, x, layout, key, state, relative=True)
    return QTensor(qtype.format.store(values), scale, zero, qtype, layout, dtype.name)


def tiles(
    quantizer: Any, x: Array, layout: Layout, key: Any, state: Any, *, relative: bool
) -> tuple[Array, QTensor | None, QTensor | None, Any]:
    """Returns values (without scale where `relative`), scales, zero points and the state."""
    if quantizer.qtype.zero is not None:
        noise = _noise(quantizer, x, key)
        kept = pruned(quantizer, x, layout)
        return *_affine.tiles(quantizer, x, kept, layout, noise, relative=relative), state
    options = {"relative": relative, "keep": relative}
    values, made, state = _rounded(quantizer, x, layout, key, state, **options)
    return values, made.stored, None, state


def pruned(quantizer: Any, x: Array, layout: Layout) -> Array:
    """Returns `x` with zero for what its type does not keep.

    Scales are found before, from the whole tile, as in TensorCast. With scales of the largest
    magnitude, which is always kept, nothing would change.
    """
    sparsity = quantizer.qtype.sparsity
    return x if sparsity is None else jnp.where(qtensor.kept(x, sparsity, layout), x, 0)


def _noise(quantizer: Any, x: Array, key: Any) -> Array | None:
    rounding = quantizer.rounding
    return rounding.noise(key, x.shape) if rounding.stochastic else None


def _bound(
    quantizer: Any, x: Array, layout: Layout, key: Any, state: Any
) -> tuple[Array, Array | None, Any]:
    """Returns the bounds of tiles, the noise of elements, and the calibration's next state."""
    bound, state = quantizer.calibration(layout.split(x), layout.axes, state)
    return layout.gather(bound), _noise(quantizer, x, key), state


def _rounded(
    quantizer: Any,
    x: Array,
    layout: Layout,
    key: Any,
    state: Any,
    *,
    relative: bool,
    keep: bool,
    counted: bool = False,
) -> tuple[Array, _made.Made, Any]:
    """Returns values, scales (as codes too where `keep`) and the calibration's next state.

    Values that are `counted` become integers.
    """
    format, rounding = quantizer.qtype.format, quantizer.rounding
    bound, noise, state = _bound(quantizer, x, layout, key, state)
    x = pruned(quantizer, x, layout)
    if isinstance(format, Choice):
        options = {"relative": relative, "keep": keep}
        return *_choices.values(quantizer, x, bound, layout, key, noise, **options), state
    fixed = all(isinstance(leaf, int | float) for leaf in jax.tree.leaves(quantizer))
    make = _scaled_apart if fixed else _scaled
    made = make(quantizer, x, bound, layout, key, noise, keep)
    values = _made.elements(x, format, rounding, noise, layout, made, relative, counted)
    return values, made, state


def _scaled(
    quantizer: Any,
    x: Array,
    bound: Array,
    layout: Layout,
    key: Any,
    noise: Any,
    keep: bool,
) -> _made.Made:
    """Returns the scales of bounds, one per tile, after a search where one was asked for."""
    format, qtype = quantizer.qtype.format, quantizer.qtype.scale
    assert qtype is not None
    bounded = quantizer.calibration.bounding and _made.follows(qtype)

    def made(bound: Array, keep: bool) -> _made.Made:
        if _made.is_power(qtype):
            return _scales.powers(bound, format, qtype, quantizer.scale, layout, keep)
        return _scales.floats(bound, format, quantizer.scale, layout, key, keep)

    if isinstance(quantizer.calibration, calibrations.Search):
        bounds = [_shrunk(bound, fraction) for fraction in quantizer.calibration.fractions]
        errors = [_error(quantizer, x, layout, noise, made(part, False)) for part in bounds]
        bound = _least(bounds, errors)
    if quantizer.scale != "search":
        return made(bound, keep).ready(x, format, qtype, bounded)
    middle, bad = made(bound, False).exponent, bound >= INFINITY
    assert middle is not None
    steps = [middle, middle + 1, middle - 1]
    tried = [_scales.from_exponents(e, bad, qtype, layout, False) for e in steps]
    errors = [_error(quantizer, x, layout, noise, each) for each in tried]
    best = _scales.from_exponents(_least(steps, errors), bad, qtype, layout, keep)
    return best.ready(x, format, qtype, bounded)


# What a tile shares is computed once for it, not again for each of its elements.
_scaled_apart = apart(_scaled, static_argnums=(0, 3, 6))


def _error(quantizer: Any, x: Array, layout: Layout, noise: Any, made: _made.Made) -> Array:
    values = _made.elements(
        x, quantizer.qtype.format, quantizer.rounding, noise, layout, made, relative=False
    )
    square = (values - x.astype(jnp.float32)) ** 2
    return layout.gather(jnp.sum(layout.split(square), axis=layout.axes, keepdims=True))


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
