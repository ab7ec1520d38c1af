"""Facts about the casts of operands, as sums that may be added over calls, devices and turns.

`qjax.diagnostics` measures one tensor at hand; these sums are collected inside a model that
trains, where what a ratio is made of must be added up before it is formed.
"""

from typing import Any

import jax.numpy as jnp

from qjax import tiling
from qjax._typing import Array, Axes, Key, PyTree
from qjax.apart import apart
from qjax.contraction import casts, products
from qjax.contraction.axes import OperandAxes
from qjax.contraction.operands import Operand
from qjax.contraction.plans import REFERENCE, Plan
from qjax.diagnostics import lost
from qjax.quantizer import Quantizer

# What the entries of the sums are.
SUMS = ("signal", "noise", "saturated", "underflowed", "elements")


def none() -> Array:
    """The sums over no cast at all, float32 of shape (5,)."""
    return jnp.zeros((len(SUMS),), jnp.float32)


def of_values(x: Array, values: Array, saturated: Array) -> Array:
    """The sums of one cast: signal and noise power, counts of elements, float32 (5,).

    Args:
      x: The operand.
      values: What became of it.
      saturated: Which elements lie beyond what their tile holds.
    """
    x, values = x.astype(jnp.float32), values.astype(jnp.float32)
    signal, noise = jnp.sum(jnp.square(x)), jnp.sum(jnp.square(values - x))
    counts = [_count(mask) for mask in (saturated, lost(x, values))]
    return jnp.stack([signal, noise, *counts, jnp.float32(x.size)])


def _count(mask: Array) -> Array:
    # XLA's CPU sums these twice as fast as converted booleans.
    return jnp.sum(jnp.where(mask, jnp.float32(1), jnp.float32(0)))


def of_quantizer(
    quantizer: Quantizer,
    x: Array,
    axes: OperandAxes,
    key: Key | None,
    *,
    way: Plan = REFERENCE,
    state: PyTree = (),
) -> Array:
    """The sums of the cast of an operand.

    Args:
      quantizer: The quantizer.
      x: The operand.
      axes: Roles of its axes.
      key: Key of its noise.
      way: How its product is carried out: a compiler makes values that the product takes too
        only once.
      state: The state that the quantizer is in, where its calibration keeps one.
    """
    scale = None
    if quantizer.calibration.stateful:
        place: Any = {"contract": axes.contract, "batch": axes.batch, "key": key}
        values = quantizer.step(x, state, **place, dtype=jnp.float32)[0]
    elif way.kind in (*products.DTYPES, "float8"):
        values, scale = products.operand(way.kind, way.outside, quantizer, x, axes, key)
    else:
        values = casts.values(quantizer, x, axes, key, jnp.float32)
    static, numbers = casts.split(quantizer)
    return _sums(static, axes, numbers, x, values, scale, key, state)


def _sums_here(static, axes, numbers, x, values, scale, key, state) -> Array:
    quantizer, wide = casts.merge(static, numbers), x.astype(jnp.float32)
    place: Any = {"contract": axes.contract, "batch": axes.batch}
    format, values = quantizer.qtype.format, values.astype(jnp.float32)
    top = jnp.float32(format.max)
    if quantizer.qtype.zero is not None:
        units, _ = quantizer.units(x, **place, key=key, state=state)
        low, high = units <= format.min, units >= format.max
        return of_values(x, values, (low & (wide < values)) | (high & (wide > values)))
    if quantizer.qtype.scale is not None:
        layout = tiling.resolve(x.shape, quantizer.qtype.tile, **place)
        values = values if scale is None else values * layout.spread(scale)
        if scale is None:
            # Only the scales are made, for nobody reads the units.
            _, scale = quantizer.units(x, **place, key=key, state=state)
        top = layout.spread(scale * top)
    size = jnp.abs(values)
    return of_values(x, values, (size >= top) & (jnp.abs(wide) > size))


# Apart, it runs along the memory of what it reads.
_sums = apart(_sums_here, static_argnums=(0, 1))


def of_operand(operand: Operand, x: Array, values: Array, *, contract: Axes, batch: Axes) -> Array:
    """The sums of what a trained operand gave: an element that its tile's largest value falls
    short of counts as saturated."""
    layout = tiling.resolve(x.shape, operand.qtype.tile, contract, batch)
    size = jnp.abs(values.astype(jnp.float32))
    top = jnp.max(layout.split(size), axis=layout.axes, keepdims=True)
    top = layout.spread(layout.gather(top))
    return of_values(x, values, (size >= top) & (jnp.abs(x.astype(jnp.float32)) > size))
