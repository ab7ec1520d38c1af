"""Products of activations with four-bit weights that are decoded inside the kernel.

Serving a model with few tokens at a time is bound by reading its weights. Here they are read as
they are stored, two codes in a byte, and become numbers in fast memory only. A scale serves a
group of rows of one column.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from qjax._typing import Array
from qjax.contraction.pallas.targets import Target, across, call, dividing
from qjax.formats import Choice, Codebook, Format
from qjax.qtensor import QTensor
from qjax.qtypes import QType

# Rows of activations, and columns of weights, of one instance of the kernel.
ROWS, COLUMNS = 16, 128
# Rows of weights in one step of the sum, at least.
DEPTH = 128


def packs(qtype: QType, shape: tuple[int, int]) -> str:
    """Why weights of this type and shape, [k, n], cannot be used so; empty where they can."""
    format, scale = qtype.format, qtype.scale
    if not format.static or format.width > 4 or isinstance(format, Codebook | Choice):
        return "weights of other than four bits"
    if scale is None or scale.scale is not None or qtype.zero is not None or qtype.tile.keep != 1:
        return "scales that are not single, one for a group of rows of a column"
    extent = qtype.tile.contract or shape[0]
    if 0 in shape or (shape[0] % (2 * extent) and extent != shape[0]) or shape[0] % 2:
        return "weights whose rows are no even number of groups"
    return ""


def matmul(x: Array, weights: QTensor, *, target: Target) -> Array:
    """Computes `x @ weights.decode()` without decoded weights in memory.

    Args:
      x: [m, k] array of floating point.
      weights: [k, n] tensor that `packs` has nothing against, contracted along its rows.
      target: Where the kernel runs.

    Returns:
      [m, n] float32 array; sums are float32, in the order of `DEPTH`.
    """
    packed, scales = _arranged(weights)
    m, n = x.shape[0], packed.shape[-1]
    steps, groups, group, _ = packed.shape
    rows, columns = ROWS, across(n, COLUMNS, target)
    padded = jnp.pad(x.astype(jnp.float32), ((0, -m % rows), (0, 0)))
    # Both halves of a step lie behind each other, as in a byte.
    halves = padded.reshape(-1, steps, 2, groups * group).transpose(1, 2, 0, 3)
    out = call(
        functools.partial(_kernel, format=weights.qtype.format),
        target,
        grid=(padded.shape[0] // rows, n // columns, steps),
        in_specs=[
            pl.BlockSpec((1, 2, rows, groups * group), lambda i, j, s: (s, 0, i, 0)),
            pl.BlockSpec((1, groups, group, columns), lambda i, j, s: (s, 0, 0, j)),
            pl.BlockSpec((1, 2, groups, 1, columns), lambda i, j, s: (s, 0, 0, 0, j)),
        ],
        out_specs=pl.BlockSpec((rows, columns), lambda i, j, s: (i, j)),
        out_shape=jax.ShapeDtypeStruct((padded.shape[0], n), jnp.float32),
    )(halves, packed, scales)
    return out[:m]


def _arranged(weights: QTensor) -> tuple[Array, Array]:
    """Codes [steps, groups, group, n] and scales [steps, 2, groups, 1, n].

    A byte holds the codes of two rows, half a step apart, so that both halves of a step are
    decoded without taking neighbours apart.
    """
    k, n = weights.qvalue.shape
    extent = min(weights.qtype.tile.contract or k, k)
    whole = extent == k  # One group: both halves of every step share its scale.
    group = dividing(k // 2, DEPTH // 2) if whole else extent
    half = group if whole else group * dividing(k // (2 * group), DEPTH // (2 * group))
    steps, groups = k // (2 * half), half // group
    codes = weights.qvalue.astype(jnp.uint8) & 15
    low, high = jnp.moveaxis(codes.reshape(steps, 2, groups, group, n), 1, 0)
    assert weights.scale is not None
    scales = weights.scale.decode(jnp.float32)
    if whole:
        scales = jnp.broadcast_to(scales.reshape(1, 1, 1, 1, n), (steps, 2, groups, 1, n))
    return low | high << 4, scales.reshape(steps, 2, groups, 1, n)


def _decoded(codes: Array, scale: Array, format: Format) -> Array:
    """Float32 rows [depth / 2, n] of codes [groups, group, n] and scales [groups, 1, n]."""
    if jnp.issubdtype(format.storage, jnp.signedinteger):
        codes = (codes.astype(jnp.int32) ^ 8) - 8
    values = format.load(codes.astype(format.storage)) * scale
    return values.reshape(math.prod(values.shape[:2]), values.shape[2])


def _kernel(x_ref: Any, codes_ref: Any, scale_ref: Any, out_ref: Any, *, format: Format) -> None:
    @pl.when(pl.program_id(2) == 0)
    def _():
        out_ref[...] = jnp.zeros(out_ref.shape, out_ref.dtype)

    codes = codes_ref[0].astype(jnp.int32)
    total = out_ref[...]
    for n, part in enumerate((codes & 15, codes >> 4)):
        rows = _decoded(part, scale_ref[0, n], format)
        total += jnp.dot(x_ref[0, n], rows, preferred_element_type=jnp.float32)
    out_ref[...] = total
