"""Products of MX and NVFP4 blocks by the device: codes and scales go to `jax.nn.scaled_matmul`.

That function takes matrices whose blocks lie along their last axis. Operands are quantized in
their own order, as in every other way, so that the noise of a stochastic rounding is the same;
then the codes are moved. A scale above the blocks' own, one for the whole tensor, multiplies the
result.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from qjax import tiling
from qjax._typing import Array, Key, Shape
from qjax.contraction.axes import Labels, OperandAxes
from qjax.qtensor import QTensor
from qjax.qtypes import MXFP8, MXFP8_E5M2, NVFP4, QType

# Types that the hardware has, by the elements of a block.
MICROSCALED, NVIDIA = (MXFP8, MXFP8_E5M2), (NVFP4,)


def accepts(
    types: tuple[QType, QType], axes: tuple[OperandAxes, OperandAxes], shapes: tuple[Shape, Shape]
) -> bool:
    """Whether blocks of both operands are what the hardware multiplies, and none is cut short."""
    if not any(all(t in family for t in types) for family in (MICROSCALED, NVIDIA)):
        return False
    return all(map(_whole, types, axes, shapes))


def _whole(qtype: QType, axes: OperandAxes, shape: Shape) -> bool:
    layout = tiling.resolve(shape, qtype.tile, axes.contract, axes.batch)
    contracted = math.prod(shape[axis] for axis in axes.contract)
    return layout.merged == tuple(shape) and contracted % (qtype.tile.contract or 1) == 0


def product(
    first: Labels,
    second: Labels,
    result: Labels,
    quantizers: tuple[Any, Any],
    operands: tuple[Array, Array],
    axes: tuple[OperandAxes, OperandAxes],
    keys: tuple[Key | None, Key | None],
) -> Array:
    """Sums over the labels that the result lacks.

    Args:
      first: Labels of the first operand.
      second: Labels of the second operand.
      result: Labels of the result.
      quantizers: A Quantizer for each operand.
      operands: Both operands, floating-point.
      axes: Roles of their axes.
      keys: Keys of their noise.

    Returns:
      Float32 array.
    """
    batch = [x for x in first if x in second and x in result]
    contract = [x for x in first if x in second and x not in result]
    free = [[x for x in own if x not in other] for own, other in ((first, second), (second, first))]
    made = []
    for n, own in enumerate((first, second)):
        where = {"contract": axes[n].contract, "batch": axes[n].batch, "key": keys[n]}
        groups = [[own.index(x) for x in group] for group in (batch, free[n], contract)]
        made.append(matrices(quantizers[n].encode(operands[n], **where), groups))
    (lhs, lhs_scale, lhs_top), (rhs, rhs_scale, rhs_top) = made
    out = jax.nn.scaled_matmul(lhs, rhs, lhs_scale, rhs_scale, preferred_element_type=jnp.float32)
    out = out * (lhs_top * rhs_top)
    sizes = dict(zip(first, operands[0].shape)) | dict(zip(second, operands[1].shape))
    has = [*batch, *free[0], *free[1]]
    out = out.reshape([sizes[x] for x in has])
    return out.transpose([has.index(x) for x in result])


def matrices(tensor: QTensor, groups: list[list[int]]) -> tuple[Array, Array, Array]:
    """Codes and scales of a tensor with its axes in three groups, and the scale above both.

    Returns:
      Elements [batch, free, contracted] and scales [batch, free, blocks], both in the dtypes of
      their formats, and a float32 scalar.
    """
    scale = tensor.scale
    assert scale is not None
    top = jnp.ones((), jnp.float32) if scale.scale is None else scale.scale.decode(jnp.float32)

    def arranged(part: QTensor) -> Array:
        values = part.qtype.format.load(part.qvalue).astype(part.qtype.format.dtype)
        order = [axis for group in groups for axis in group]
        shape = [math.prod(values.shape[axis] for axis in group) for group in groups]
        return values.transpose(order).reshape(shape)

    return arranged(tensor), arranged(scale), top.reshape(())
