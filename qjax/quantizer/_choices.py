"""Types whose tiles choose among tables: each is tried, the one with the least error kept."""

from typing import Any

import jax.numpy as jnp

from qjax._typing import Array
from qjax.formats import INFINITY, Choice, Codebook
from qjax.qtensor import QTensor
from qjax.quantizer import _made, _scales
from qjax.tiling import Layout


def values(
    quantizer: Any,
    x: Array,
    bound: Array,
    layout: Layout,
    key: Any,
    noise: Any,
    *,
    relative: bool,
    keep: bool,
) -> tuple[Array, _made.Made]:
    """Returns the rounded elements, without scales where `relative`, and the scales."""
    choice, made = _chosen(quantizer, x, bound, layout, key, noise, keep)
    spread, tables = layout.spread(choice), quantizer.qtype.format.tables
    tried = [_elements(quantizer, x, t, layout, noise, made, relative) for t in tables]
    return _pick(spread, tried), made


def codes(
    quantizer: Any, x: Array, bound: Array, layout: Layout, key: Any, noise: Any
) -> tuple[Array, QTensor | None]:
    """Returns codes, the choice of the tile above the index, and the scales."""
    format = quantizer.qtype.format
    choice, made = _chosen(quantizer, x, bound, layout, key, noise, True)
    spread, tables = layout.spread(choice), format.tables
    tried = [t.nearest(_elements(quantizer, x, t, layout, noise, made, True)) for t in tables]
    return format.join(_pick(spread, tried), spread), made.stored


def _elements(
    quantizer: Any, x: Array, table: Codebook, layout: Layout, noise: Any, made: Any, relative: bool
) -> Array:
    return _made.elements(x, table, quantizer.rounding, noise, layout, made, relative)


def _chosen(
    quantizer: Any, x: Array, bound: Array, layout: Layout, key: Any, noise: Any, keep: bool
) -> tuple[Array, _made.Made]:
    """Returns the int32 choice of each tile and its scales."""
    format, qtype, rule = quantizer.qtype.format, quantizer.qtype.scale, quantizer.scale
    power = _made.is_power(qtype)

    def scales(ends: Codebook | Choice, keep: bool) -> _made.Made:
        """Scales that take each bound to the largest magnitude of `ends`."""
        if power:
            return _scales.powers(bound, ends, qtype, rule, layout, keep)
        return _scales.floats(bound, ends, rule, layout, key, keep)

    tried = [scales(table if format.fitted else format, False) for table in format.tables]
    errors = []
    for table, made in zip(format.tables, tried):
        cast = _elements(quantizer, x, table, layout, noise, made, False)
        square = layout.split((cast - x.astype(jnp.float32)) ** 2)
        errors.append(layout.gather(jnp.sum(square, axis=layout.axes, keepdims=True)))
    # The first of equals; in a tile with NaN all errors are, and the first is chosen.
    choice = jnp.argmin(jnp.nan_to_num(jnp.stack(errors), nan=jnp.inf), axis=0).astype(jnp.int32)
    if not format.fitted:
        return choice, scales(format, keep)
    if power:
        exponent = _pick(choice, [made.exponent for made in tried])
        return choice, _scales.from_exponents(exponent, bound >= INFINITY, qtype, layout, keep)
    # As if the table of each tile reached as far as all together, with a bound that much larger.
    stretch = _pick(choice, [jnp.float32(format.max / table.max) for table in format.tables])
    return choice, _scales.floats(bound, format, rule, layout, key, keep, stretch=stretch)


def _pick(choice: Array, options: list[Any]) -> Array:
    """Returns the options that were chosen."""
    result = options[0]
    for i, option in enumerate(options[1:], 1):
        result = jnp.where(choice == i, option, result)
    return result
