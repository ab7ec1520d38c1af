"""Quantization of power-of-two tiles in one pass: maximum, scale and rounding of a tile at once.

XLA reads an array twice, for the maxima and for the rounding. Here a tile is read once. The
arithmetic is that of `casting`, so the bits are those of `Quantizer.cast` and `encode`.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from qjax import calibration, casting, tiling
from qjax._typing import Array, Axes, DTypeLike, Shape
from qjax.contraction.pallas.targets import Target, across, call, dividing
from qjax.formats import INFINITY, Choice, Codebook, PowerOfTwo, extended
from qjax.qtensor import QTensor
from qjax.quantizer import Quantizer
from qjax.rounding import NearestEven
from qjax.tiling import Layout


@dataclasses.dataclass(frozen=True)
class _Nearest(NearestEven):
    """The same rounding by operations that Triton has."""

    def __call__(self, units: Array, negative: Array, noise: Array | None = None) -> Array:
        below = jnp.floor(units)
        part = units - below
        odd = (below.astype(jnp.int32) & 1) == 1
        return below + ((part > 0.5) | ((part == 0.5) & odd)).astype(jnp.float32)


NEAREST = _Nearest()
# Elements that one instance of a kernel holds.
ELEMENTS = 4096


def tiled(quantizer: Any, shape: Shape, contract: Axes, batch: Axes = ()) -> str:
    """Why the kernel cannot quantize an array; empty where it can.

    Args:
      quantizer: Of the array.
      shape: Of the array.
      contract: The axes that a dot product sums over.
      batch: Axes that a tile never spans.
    """
    if type(quantizer) is not Quantizer:
        return "an operand that is no plain Quantizer"
    scale = quantizer.qtype.scale
    power = scale is not None and isinstance(scale.format, PowerOfTwo) and scale.scale is None
    if not power or quantizer.qtype.zero is not None or quantizer.scale == "search":
        return "scales that are no single powers of two"
    plain = isinstance(quantizer.calibration, calibration.AbsMax)
    if not plain or not isinstance(quantizer.rounding, NearestEven):
        return "a calibration or rounding other than the simplest"
    if isinstance(quantizer.qtype.format, Codebook | Choice):
        return "a table of values"
    if quantizer.qtype.sparsity is not None:
        return "a type that keeps some elements of every few"
    layout = tiling.resolve(shape, quantizer.qtype.tile, contract, batch)
    reach = [(n, t) for n, t in zip(layout.merged, layout.tiles) if t > 1]
    if layout.merged != tuple(shape) or len(reach) != 1:
        return "tiles that reach along several axes"
    extent = reach[0][1]
    if reach[0][0] % extent or extent & (extent - 1):
        return "tiles that are cut short, or no power of two"
    return ""


def cast(
    quantizer: Quantizer,
    x: Array,
    *,
    contract: Axes = (-1,),
    batch: Axes = (),
    dtype: DTypeLike | None = None,
    target: Target,
) -> Array:
    """Returns the values that `Quantizer.cast` gives.

    Args:
      quantizer: One that `tiled` has nothing against.
      x: Floating-point array.
      contract: The axes a dot product sums over.
      batch: Axes that a tile never spans.
      dtype: Of the result; that of `x` by default.
      target: Where the kernel runs.
    """
    layout = tiling.resolve(x.shape, quantizer.qtype.tile, contract, batch)
    dtype = jnp.dtype(x.dtype if dtype is None else dtype)
    kernel = functools.partial(_cast_tile, quantizer=quantizer)
    (values,) = _run(kernel, x, layout, (dtype,), target)
    return values.reshape(x.shape)


def encode(
    quantizer: Quantizer,
    x: Array,
    *,
    contract: Axes = (-1,),
    batch: Axes = (),
    target: Target,
) -> QTensor:
    """Returns the tensor that `Quantizer.encode` gives; arguments as for `cast`."""
    qtype = quantizer.qtype
    assert qtype.scale is not None
    layout = tiling.resolve(x.shape, qtype.tile, contract, batch)
    kernel = functools.partial(_encode_tile, quantizer=quantizer)
    dtypes = (qtype.format.storage, qtype.scale.format.storage)
    codes, scales = _run(kernel, x, layout, dtypes, target)
    inner = tiling.resolve(layout.scale_shape, qtype.scale.tile, layout.contract, layout.batch)
    scale = QTensor(scales.reshape(layout.scale_shape), None, None, qtype.scale, inner)
    return QTensor(codes.reshape(x.shape), scale, None, qtype, layout, jnp.dtype(x.dtype).name)


def _run(kernel: Any, x: Array, layout: Layout, dtypes: tuple, target: Target) -> list[Array]:
    """Runs a kernel over tiles that lie along one axis: [outer, tiles, extent, inner]."""
    axis = next(i for i, t in enumerate(layout.tiles) if t > 1)
    extent = layout.tiles[axis]
    outer, inner = math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
    count = x.shape[axis] // extent
    view = x.reshape(outer, count, extent, inner)
    lanes = across(inner, ELEMENTS // extent, target)
    tiles = dividing(count, ELEMENTS // (extent * lanes))
    rows = dividing(outer, ELEMENTS // (extent * lanes * tiles))
    block = (rows, tiles, extent, lanes)
    grid = (outer // rows, count // tiles, inner // lanes)
    shapes = (view.shape, (outer, count, 1, inner))
    blocks = (block, (rows, tiles, 1, lanes))
    if x.size == 0:
        return [jnp.zeros(s, t) for s, t in zip(shapes, dtypes)]
    return call(
        kernel,
        target,
        grid=grid,
        in_specs=[pl.BlockSpec(block, _where)],
        out_specs=[pl.BlockSpec(b, _where) for b, _ in zip(blocks, dtypes)],
        out_shape=[jax.ShapeDtypeStruct(s, t) for s, t in zip(shapes, dtypes)],
    )(view)


def _where(row: Any, tile: Any, lane: Any) -> tuple:
    return row, tile, 0, lane


def _scale(x: Array, quantizer: Quantizer) -> tuple[Array, Array]:
    """The exponents of the scales of tiles along axis 2, and the highest pattern that has one."""
    qtype = quantizer.qtype
    assert qtype.scale is not None
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.int32)
    bound = jnp.max(bits & 0x7FFFFFFF, axis=2, keepdims=True)
    exponent = calibration.exponent_of(extended(bound), qtype.format, quantizer.scale)
    limits: Any = qtype.scale.format
    exponent = jnp.clip(exponent, limits.min_exponent, limits.top_exponent)
    return exponent, jnp.where(bound >= INFINITY, -1, INFINITY)


def _cast_tile(x_ref: Any, out_ref: Any, *, quantizer: Quantizer) -> None:
    x = x_ref[...]
    exponent, highest = _scale(x, quantizer)
    values = casting.on_format(
        x, quantizer.qtype.format, NEAREST, exponent=exponent, highest=highest
    )
    out_ref[...] = values.astype(out_ref.dtype)


def _encode_tile(x_ref: Any, code_ref: Any, scale_ref: Any, *, quantizer: Quantizer) -> None:
    x, qtype = x_ref[...], quantizer.qtype
    assert qtype.scale is not None
    exponent, highest = _scale(x, quantizer)
    values = casting.on_format(
        x, qtype.format, NEAREST, exponent=exponent, relative=True, highest=highest
    )
    code_ref[...] = qtype.format.store(values)
    power = casting.times_power(jnp.ones(exponent.shape, jnp.float32), exponent)
    scale_ref[...] = qtype.scale.format.store(jnp.where(highest < 0, jnp.nan, power))
