"""Products on narrow operands: bfloat16, int8, int4 and float8, with scales inside or outside.

A leg arrives with its labels; its operands are quantized, brought into the order that the
device multiplies fastest, multiplied, and scaled. Whether that is allowed was decided by
`plans`.
"""

import jax
import jax.numpy as jnp

from qjax._typing import Array, DTypeLike, Key
from qjax.contraction import casts
from qjax.contraction.axes import Labels, OperandAxes
from qjax.quantizer import Quantizer

DTYPES = {"int8": jnp.int8, "int4": jnp.int4, "bfloat16": jnp.bfloat16}


def operand(
    kind: str, outside: bool, quantizer: Quantizer, x: Array, axes: OperandAxes, key: Key | None
) -> tuple[Array, Array | None]:
    """An operand in the dtype it is multiplied in, and its scales where they stay outside."""
    if not outside:
        return casts.values(quantizer, x, axes, key, jnp.bfloat16), None
    dtype = DTYPES.get(kind) or quantizer.qtype.format.dtype
    return casts.units(quantizer, x, axes, key, dtype)


def product(
    first: Labels,
    second: Labels,
    result: Labels,
    operands: tuple[Array, Array],
    scales: tuple[Array | None, Array | None] = (None, None),
) -> Array:
    """Sums over the labels that the result lacks, then multiplies by the scales.

    Args:
      first: Labels of the first operand.
      second: Labels of the second operand.
      result: Labels of the result.
      operands: The two operands. Integers are summed in int32, all else in float32.
      scales: Float32 scales of each, with an axis for each of its own.

    Returns:
      Float32 array.
    """
    integer = jnp.issubdtype(operands[0].dtype, jnp.integer)
    out = _dot(first, second, result, *operands, jnp.int32 if integer else jnp.float32)
    out = out.astype(jnp.float32)
    for own, scale in zip((first, second), scales):
        out = out if scale is None else out * _along(own, result, scale)
    return out


def _dot(
    first: Labels, second: Labels, result: Labels, lhs: Array, rhs: Array, dtype: DTypeLike
) -> Array:
    batch = [label for label in first if label in second and label in result]
    contract = [label for label in first if label in second and label not in result]
    cpu = jax.default_backend() == "cpu"
    if cpu:
        if _turns(first, second, contract, lhs, rhs):
            first, second, lhs, rhs = second, first, rhs, lhs
        first, lhs = _in_rows(first, (*batch, *_free(first, second), *contract), lhs)
        # A transposition that XLA moved through this product would make it one that its CPU
        # has not got.
        lhs, rhs = jax.lax.optimization_barrier((lhs, rhs))
    out = jax.lax.dot_general(
        lhs,
        rhs,
        (
            ([first.index(x) for x in contract], [second.index(x) for x in contract]),
            ([first.index(x) for x in batch], [second.index(x) for x in batch]),
        ),
        preferred_element_type=dtype,
    )
    has = [*batch, *_free(first, second), *_free(second, first)]
    out = jax.lax.optimization_barrier(out) if cpu else out
    return out.transpose([has.index(label) for label in result])


def _free(own: Labels, other: Labels) -> Labels:
    return tuple(label for label in own if label not in other)


def _turns(first: Labels, second: Labels, contract: list, lhs: Array, rhs: Array) -> bool:
    """Whether it is less work to make the second operand the left one.

    XLA's CPU is two to four times faster where the left operand is contracted along its last
    axes. Where neither is, one of them has to be moved: the smaller.
    """
    rows = tuple(contract)
    return bool(rows) and first[-len(rows) :] != rows and rhs.size < lhs.size


def _in_rows(labels: Labels, order: Labels, x: Array) -> tuple[Labels, Array]:
    # Only a flat array behind a barrier is laid out in memory as it is written here.
    if order == labels:
        return labels, x
    x = x.transpose([labels.index(label) for label in order])
    return order, jax.lax.optimization_barrier(x.reshape(-1)).reshape(x.shape)


def _along(own: Labels, result: Labels, scale: Array) -> Array:
    """A scale, one for each tile of an operand, in a shape that broadcasts to the result."""
    kept = [i for i, label in enumerate(own) if label in result]
    scale = scale.reshape([scale.shape[i] for i in kept])
    labels = [own[i] for i in kept]
    order = [label for label in result if label in labels]
    scale = scale.transpose([labels.index(label) for label in order])
    sizes = dict(zip(order, scale.shape))
    return scale.reshape([sizes.get(label, 1) for label in result])
