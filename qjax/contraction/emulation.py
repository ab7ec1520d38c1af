"""Products of one leg, multiplied and summed number by number as other hardware would.

Slow and exact: a scan over the contracted index adds one product at a time to every element of
the result, in the order that `accumulators` states. Operands come as values, or as integer codes
and scales where the accumulator sums integers. Which ordinary product XLA could use instead is
`execution`'s business.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from qjax import tiling
from qjax._typing import Array, Key
from qjax.contraction.accumulators import Accumulator, IntegerAccumulator
from qjax.contraction.axes import Axes, Labelling, Labels, Leg, OperandAxes
from qjax.contraction.multipliers import Multiplier
from qjax.formats import Fixed, Int
from qjax.quantizer import Quantizer

# Contracted indices whose products are made in one piece before they are added in order.
PIECE = 8


def emulate(
    labels: Axes,
    leg: Leg,
    first: Array,
    second: Array,
    multiplier: Multiplier | None,
    accumulator: Accumulator | None,
) -> Array:
    """The product of a leg by `multiplier`, summed in `accumulator`; float32.

    Args:
      labels: Axes of the operation.
      leg: The leg.
      first: Its first operand, float32 values.
      second: Its second operand.
      multiplier: None multiplies exactly, rounded once to float32.
      accumulator: A float accumulator; None sums in float32.
    """
    if multiplier is not None:
        first, second = multiplier.prepare(first, second)
    product = jnp.multiply if multiplier is None else multiplier.product
    lhs, rhs = matrices(labels, leg, first, second)

    def add(total: Array, term: Array) -> Array:
        return total + term if accumulator is None else accumulator.add(total, term)

    length = None if accumulator is None else accumulator.length
    close = _same if accumulator is None else accumulator.close
    return restored(labels, leg, first, second, _chains(lhs, rhs, product, add, close, length))


def emulate_codes(
    labels: Axes,
    leg: Leg,
    quantizers: Sequence[Any],
    operands: Sequence[Array],
    keys: Sequence[Key | None],
    accumulator: IntegerAccumulator,
) -> Array:
    """The product of a leg on integer codes, summed in an integer; float32, scales included.

    Raises:
      ValueError: If an operand is not quantized to integers whose scale is one along the
        contracted axes.
    """
    codes, scales = [], []
    for quantizer, x, axes, key in zip(quantizers, operands, labels.leg(leg), keys):
        code, scale = _codes(quantizer, x, axes, key)
        codes.append(code)
        scales.append(scale)
    lhs, rhs = matrices(labels, leg, *codes)
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
            # One scale for each row: any column has it.
            pair = (scale, codes[1]) if side == 0 else (codes[0], scale)
            spread = matrices(labels, leg, *pair)[side]
            scale = jnp.max(spread, axis=2 - side, keepdims=True, initial=0.0)
        total = total * scale
    return restored(labels, leg, codes[0], codes[1], total)


def matrices(labels: Axes, leg: Leg, first: Array, second: Array) -> tuple[Array, Array]:
    """Both operands of a leg as `(batch, m, k)` and `(batch, k, n)`."""
    batch, rows, columns, contract = groups(labels, leg)
    own, other, _ = _labelling(labels, leg).roles(leg)
    sizes = dict(zip(own, first.shape)) | dict(zip(other, second.shape))

    def arranged(x: Array, has: Labels, *parts: Sequence[Any]) -> Array:
        order = [label for part in parts for label in part]
        x = x.transpose([has.index(label) for label in order if label in has])
        x = x.reshape([sizes[label] if label in has else 1 for label in order])
        x = jnp.broadcast_to(x, [sizes[label] for label in order])
        return x.reshape([math.prod(sizes[label] for label in part) for part in parts])

    return arranged(first, own, batch, rows, contract), arranged(
        second, other, batch, contract, columns
    )


def groups(labels: Axes, leg: Leg) -> tuple[list, list, list, list]:
    """Labels of a leg: shared by all, of the rows, of the columns, and summed over."""
    labels = _labelling(labels, leg)
    first, second, result = labels.roles(leg)
    batch = [x for x in first if x in second and x in result]
    rows = [x for x in first if x not in second and x in result]
    columns = [x for x in second if x not in first and x in result]
    contract = [x for x in dict.fromkeys(first + second) if x not in result]
    return batch, rows, columns, contract


def _labelling(labels: Axes, leg: Leg) -> Labelling:
    if (
        not isinstance(labels, Labelling)
        or labels.apart
        or any(len(set(part)) < len(part) for part in labels.roles(leg))
    ):
        raise ValueError(
            f"The policy multiplies or sums `{leg}` number by number, which is done for products "
            "of two arrays without diagonals or groups of rows. Leave `accumulator` and "
            f"`multiplier` out of `{leg}` here."
        )
    return labels


def restored(labels: Axes, leg: Leg, first: Array, second: Array, out: Array) -> Array:
    """A `(batch, m, n)` result with the axes that the leg's result has."""
    batch, rows, columns, _ = groups(labels, leg)
    own, other, result = _labelling(labels, leg).roles(leg)
    sizes = dict(zip(own, first.shape)) | dict(zip(other, second.shape))
    has = [*batch, *rows, *columns]
    out = out.reshape([sizes[label] for label in has])
    return out.transpose([has.index(label) for label in result])


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

    total = jnp.zeros((lhs.shape[0], lhs.shape[1], rhs.shape[2]), jnp.float32)
    total, _ = jax.lax.scan(step, total, parts)
    if whole < k:
        total, _ = step(total, (lhs[:, :, whole:], rhs[:, whole:]))
    return total


def _chain(lhs: Array, rhs: Array, product: Any, add: Any) -> Array:
    """The sum of one chain, product by product."""
    dtype = jax.eval_shape(product, lhs[..., :1], rhs[:, :1]).dtype
    total = jnp.zeros((lhs.shape[0], lhs.shape[1], rhs.shape[2]), dtype)
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
    total = jnp.zeros((lhs.shape[0], lhs.shape[1], rhs.shape[2]), jnp.float32)
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


def _codes(
    quantizer: Any, x: Array, axes: OperandAxes, key: Key | None
) -> tuple[Array, Array | None]:
    """int32 codes, and float32 scales spread to the shape of `x`, or scalar, or None."""
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
    codes = (values / step).astype(jnp.int32)
    if scale is None:
        return codes, None if step == 1 else step
    if scale.size == 1:
        return codes, (scale * step).reshape(())
    layout = tiling.resolve(x.shape, qtype.tile, axes.contract, axes.batch)
    return codes, layout.spread(scale * step)


def _same(total: Array) -> Array:
    return total
