"""Products of two arrays, multiplied and summed number by number as other hardware would.

Slow and exact: a scan over the contracted index adds one product at a time to every element of
the result, in the order that `accumulators` states. Operands come as values, or as integer codes
and scales where the accumulator sums integers. Which ordinary product XLA could use instead is
`plans`'s business.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from qjax import tiling
from qjax._typing import Array, Key
from qjax.contraction.accumulators import Accumulator, IntegerAccumulator
from qjax.contraction.axes import Labelling, Labels, OperandAxes
from qjax.contraction.gridded import OnGrid
from qjax.contraction.multipliers import Multiplier
from qjax.formats import Fixed, Int
from qjax.quantizer import Quantizer

Pair = tuple[Array, Array]

# Contracted indices whose products are made in one piece before they are added in order.
PIECE = 8


def emulate(
    labels: Labelling,
    first: Array,
    second: Array,
    multiplier: Multiplier | None,
    accumulator: Accumulator | None,
) -> Array:
    """A product by `multiplier`, summed in `accumulator`; float32.

    Args:
      labels: Axes of the product.
      first: Its first operand, float32 values.
      second: Its second operand.
      multiplier: None multiplies exactly, rounded once to float32.
      accumulator: A float accumulator; None sums in float32.
    """
    if multiplier is not None:
        first, second = multiplier.prepare(first, second)
    product = jnp.multiply if multiplier is None else multiplier.product
    lhs, rhs = matrices(labels, first, second)

    def add(total: Array, term: Array) -> Array:
        return total + term if accumulator is None else accumulator.add(total, term)

    length = None if accumulator is None else accumulator.length
    close = _same if accumulator is None else accumulator.close
    return restored(labels, first, second, _chains(lhs, rhs, product, add, close, length))


def emulate_codes(
    labels: Labelling, codes: Pair, scales: Sequence[Array | None], accumulator: IntegerAccumulator
) -> Array:
    """A product of int32 codes, summed in an integer; float32, times the scales.

    Args:
      labels: Axes of the product.
      codes: Both operands.
      scales: Of each a number, or one per element that is the same along contracted axes.
      accumulator: The integer.
    """
    lhs, rhs = matrices(labels, *codes)
    if accumulator.in_one_piece:
        total = _pieces(lhs, rhs, accumulator)
    else:
        total = _chains(
            lhs, rhs, jnp.multiply, accumulator.add, accumulator.close, accumulator.length
        )
    for side, scale in enumerate(scales):
        if scale is None:
            continue
        if scale.ndim:
            own, other = (labels.lhs, labels.rhs) if side == 0 else (labels.rhs, labels.lhs)
            if any(label not in other and label not in labels.out for label in own):
                raise ValueError(
                    "`IntegerAccumulator` takes scales out of the sum, but an axis that only one "
                    "operand has is summed too, and its scales differ along it. Give that operand "
                    "one scale, or sum the axis before the product."
                )
            # One scale for each row; the largest, because padding has none.
            pair = (scale, codes[1]) if side == 0 else (codes[0], scale)
            scale = matrices(labels, *pair)[side]
            scale = jnp.max(scale, axis=2 - side, keepdims=True, initial=0.0)
        total = total * scale
    return restored(labels, *codes, total)


def codes(quantizer: Any, x: Array, axes: OperandAxes, key: Key | None) -> tuple[Array, Any]:
    """The int32 codes of an operand, and its float32 scales: a number, one per element, or None.

    Raises:
      ValueError: If the operand is not quantized to integers whose scale is one along the
        contracted axes.
    """
    if isinstance(quantizer, OnGrid):
        return quantizer.codes(x)
    qtype = quantizer.qtype if isinstance(quantizer, Quantizer) else None
    integer = qtype is not None and isinstance(qtype.format, Int | Fixed) and qtype.zero is None
    if qtype is None or not integer or (qtype.scale is not None and qtype.tile.contract):
        raise ValueError(
            "`IntegerAccumulator` sums integer codes, so both operands must be quantized to `Int` "
            "or `Fixed` with scales that are constant along the contracted axes, but "
            f"{quantizer!r} came. Give for instance 'int8_channel'."
        )
    where = {"contract": axes.contract, "batch": axes.batch}
    values, scale = quantizer.units(x, **where, key=key)
    step = jnp.float32(getattr(qtype.format, "step", 1.0))
    whole = (values / step).astype(jnp.int32)
    if scale is None:
        return whole, step
    if scale.size == 1:
        return whole, (scale * step).reshape(())
    layout = tiling.resolve(x.shape, qtype.tile, axes.contract, axes.batch)
    return whole, layout.spread(scale * step)


def matrices(labels: Labelling, first: Array, second: Array) -> tuple[Array, Array]:
    """Both operands as `(batch, m, k)` and `(batch, k, n)`."""
    batch, rows, columns, contract = groups(labels)
    sizes = dict(zip(labels.lhs, first.shape)) | dict(zip(labels.rhs, second.shape))

    def arranged(x: Array, has: Labels, *parts: Sequence[Any]) -> Array:
        order = [label for part in parts for label in part]
        x = x.transpose([has.index(label) for label in order if label in has])
        x = x.reshape([sizes[label] if label in has else 1 for label in order])
        x = jnp.broadcast_to(x, [sizes[label] for label in order])
        return x.reshape([math.prod(sizes[label] for label in part) for part in parts])

    left = arranged(first, labels.lhs, batch, rows, contract)
    return left, arranged(second, labels.rhs, batch, contract, columns)


def groups(labels: Labelling) -> tuple[list, list, list, list]:
    """Labels shared by all three arrays, of the rows, of the columns, and summed over."""
    first, second, result = labels.lhs, labels.rhs, labels.out
    batch = [x for x in first if x in second and x in result]
    rows = [x for x in first if x not in second and x in result]
    columns = [x for x in second if x not in first and x in result]
    contract = [x for x in dict.fromkeys(first + second) if x not in result]
    return batch, rows, columns, contract


def restored(labels: Labelling, first: Array, second: Array, out: Array) -> Array:
    """A `(batch, m, n)` result with the axes of the labels, those in no operand left out."""
    batch, rows, columns, _ = groups(labels)
    sizes = dict(zip(labels.lhs, first.shape)) | dict(zip(labels.rhs, second.shape))
    has = [*batch, *rows, *columns]
    out = out.reshape([sizes[label] for label in has])
    return out.transpose([has.index(label) for label in labels.out if label in has])


def _chains(
    lhs: Array, rhs: Array, product: Any, add: Any, close: Any, length: int | None
) -> Array:
    """Sums of chains of products, added in float32."""
    k = lhs.shape[2]
    length = k if length is None else min(length, k)
    if length in (0, k):
        return close(_chain(lhs, rhs, product, add)).astype(jnp.float32)
    whole = k // length * length
    parts = (_split(lhs[:, :, :whole], 2, length), _split(rhs[:, :whole], 1, length))

    def step(total: Array, part: tuple[Array, Array]) -> tuple[Array, None]:
        chain = close(_chain(*part, product, add))
        return total + chain.astype(jnp.float32), None

    total = _nothing(lhs, rhs, jnp.float32)
    total, _ = jax.lax.scan(step, total, parts)
    if whole < k:
        total, _ = step(total, (lhs[:, :, whole:], rhs[:, whole:]))
    return total


def _chain(lhs: Array, rhs: Array, product: Any, add: Any) -> Array:
    """The sum of one chain, product by product."""
    one = [jax.ShapeDtypeStruct((), x.dtype) for x in (lhs, rhs)]
    dtype = jax.eval_shape(product, *one).dtype
    total = _nothing(lhs, rhs, dtype)
    whole = lhs.shape[2] // PIECE * PIECE

    def step(total: Array, part: tuple[Array, Array]) -> tuple[Array, None]:
        left, right = part
        # Behind the barrier no compiler joins a product and a sum into one rounding.
        terms = jax.lax.optimization_barrier(product(left[..., None], right[:, None]))
        for i in range(terms.shape[2]):
            total = add(total, terms[:, :, i])
        return total, None

    parts = (_split(lhs[:, :, :whole], 2, PIECE), _split(rhs[:, :whole], 1, PIECE))
    total, _ = jax.lax.scan(step, total, parts)
    if whole < lhs.shape[2]:
        total, _ = step(total, (lhs[:, :, whole:], rhs[:, whole:]))
    return total


def _split(x: Array, axis: int, size: int) -> Array:
    """Pieces of an axis, one after another along a new first axis."""
    shape = [*x.shape[:axis], x.shape[axis] // size, size, *x.shape[axis + 1 :]]
    return jnp.moveaxis(x.reshape(shape), axis, 0)


def _pieces(lhs: Array, rhs: Array, accumulator: IntegerAccumulator) -> Array:
    """Integer sums of whole chains, where their order does not matter."""
    k = lhs.shape[2]
    length = k if accumulator.length is None else min(accumulator.length, k)
    total = _nothing(lhs, rhs, jnp.float32)
    whole = k // length * length if length else 0

    def step(total: Array, part: tuple[Array, Array]) -> tuple[Array, None]:
        chain = jnp.einsum("bmk,bkn->bmn", *part, preferred_element_type=jnp.int32)
        return total + accumulator.close(chain).astype(jnp.float32), None

    if whole:
        parts = (_split(lhs[:, :, :whole], 2, length), _split(rhs[:, :whole], 1, length))
        total, _ = jax.lax.scan(step, total, parts)
    if whole < k:
        total, _ = step(total, (lhs[:, :, whole:], rhs[:, whole:]))
    return total


def _nothing(lhs: Array, rhs: Array, dtype: Any) -> Array:
    """The zeros that sums begin with; they lie on devices as the sums will."""
    rows = jnp.zeros_like(lhs, dtype).sum(2, dtype=dtype)
    return rows[:, :, None] + jnp.zeros_like(rhs, dtype).sum(1, dtype=dtype)[:, None]


def _same(total: Array) -> Array:
    return total
