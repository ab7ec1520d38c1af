"""Facts about the casts of operands, as sums that may be added over calls, devices and turns.

`qjax.diagnostics` measures one tensor at hand; these sums are collected inside a model that
trains, where what a ratio is made of must be added up before it is formed.
"""

import jax.numpy as jnp

from qjax import tiling
from qjax._typing import Array, Axes, Key, PyTree
from qjax.contraction.operands import Operand
from qjax.diagnostics import underflowed
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
    lost = underflowed(x, values) * x.size
    return jnp.stack(
        [signal, noise, jnp.sum(saturated.astype(jnp.float32)), lost, jnp.float32(x.size)]
    )


def of_quantizer(
    quantizer: Quantizer, x: Array, state: PyTree, *, contract: Axes, batch: Axes, key: Key | None
) -> Array:
    """The sums of the cast of `x` by a quantizer in a state; `()` where it keeps none."""
    place = {"contract": contract, "batch": batch}
    values, _ = quantizer.step(x, state, **place, key=key, dtype=jnp.float32)
    format, size = quantizer.qtype.format, jnp.abs(x.astype(jnp.float32))
    if quantizer.qtype.scale is None:
        return of_values(x, values, (jnp.abs(values) >= format.max) & (size > jnp.abs(values)))
    units, _ = quantizer.units(x, **place, key=key, state=state)
    if quantizer.qtype.zero is None:
        return of_values(x, values, (jnp.abs(units) >= format.max) & (size > jnp.abs(values)))
    low, high = units <= format.min, units >= format.max
    wide = x.astype(jnp.float32)
    return of_values(x, values, (low & (wide < values)) | (high & (wide > values)))


def of_operand(operand: Operand, x: Array, values: Array, *, contract: Axes, batch: Axes) -> Array:
    """The sums of what a trained operand gave: an element that its tile's largest value falls
    short of counts as saturated."""
    layout = tiling.resolve(x.shape, operand.qtype.tile, contract, batch)
    size = jnp.abs(values.astype(jnp.float32))
    top = jnp.max(layout.split(size), axis=layout.axes, keepdims=True)
    top = layout.spread(layout.gather(top))
    return of_values(x, values, (size >= top) & (jnp.abs(x.astype(jnp.float32)) > size))
