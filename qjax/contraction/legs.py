"""One leg of a contraction: transform both operands, quantize them, multiply and sum.

The three legs differ in what their operands are and in which transpose of the operation they
are; the operation states both. Which legs there are and what they are given is `bilinear`'s.
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp

from qjax._typing import Array, DTypeLike, Key, Shape
from qjax.contraction import cancelling, casts, emulation, sampling
from qjax.contraction.accumulators import IntegerAccumulator
from qjax.contraction.axes import LEGS, Axes, Labelling, Leg
from qjax.contraction.execution import execute, role_key
from qjax.contraction.gridded import OnGrid
from qjax.contraction.operands import Operand
from qjax.contraction.plans import REFERENCE, plan
from qjax.contraction.policy import Gemm, Implementation
from qjax.contraction.splitting import BitSplit
from qjax.quantizer import Stored


class Operation(Protocol):
    """A bilinear operation: hashable, and callable on two arrays.

    Some take further arrays that they are not linear in, such as the sizes of groups.
    `labels` says which axes are contracted, given the numbers of axes of the operands;
    `accumulate` gives the same operation with its result left in the dtype asked for.
    """

    __call__: Callable[..., Array]

    def labels(self, lhs_ndim: int, rhs_ndim: int) -> Axes: ...

    def accumulate(self, dtype: DTypeLike) -> "Operation": ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Call:
    """What the three legs of one contraction share: a pytree of its arrays.

    Attributes:
      op: The operation.
      shapes: Shapes of its two operands.
      wide: The dtype that quantized operands are decoded to.
      extra: Arrays that the operation takes besides.
      key: Key of all noise.
      decoded: Whether operands were decoded from codes, so that no leg is JAX's own.
    """

    op: Operation = dataclasses.field(metadata={"static": True})
    shapes: tuple[Shape, Shape] = dataclasses.field(metadata={"static": True})
    wide: DTypeLike = dataclasses.field(metadata={"static": True})
    extra: tuple[Array, ...] = ()
    key: Key | None = None
    decoded: bool = dataclasses.field(default=False, metadata={"static": True})

    @property
    def labels(self) -> Axes:
        """The roles of the axes."""
        return self.op.labels(len(self.shapes[0]), len(self.shapes[1]))


def wide(*arrays: Array) -> DTypeLike:
    """The dtype that products of quantized operands are computed in."""
    return jnp.float64 if any(x.dtype == jnp.float64 for x in arrays) else jnp.float32


def compute(
    call: Call,
    leg: Leg,
    gemm: Gemm,
    implementation: Implementation,
    operands: tuple[Array, Array],
    like: Array | None = None,
) -> Array:
    """The result of a leg.

    Args:
      call: The contraction.
      leg: Which of its legs.
      gemm: How it is computed.
      implementation: How its product is carried out.
      operands: Its two operands.
      like: What a gradient is a gradient of; an array stands for its type here, because it
        knows its sharding and manual axes too.

    Returns:
      The result, of the dtype of the operation or of `like`. Where `gemm` changes nothing it
      is JAX's own to the bit.
    """
    if gemm.is_identity and not call.decoded:
        return _transposed(call.op, leg, operands, call.extra, like)
    if like is None:
        shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in operands]
        dtype = jax.eval_shape(call.op, *shapes, *call.extra).dtype
    else:
        dtype = like.dtype
    if gemm.transform is not None:
        operands = transformed(call, leg, gemm, operands)
    out = _product(call, leg, gemm, implementation, operands, like)
    if gemm.result is not None:
        # Keys of operands come first, then those of samplings, then these.
        key = role_key(call.key, leg, 9 - LEGS.index(leg), gemm.result)
        contract = (-1,) if out.ndim else ()
        out = gemm.result.cast(out.astype(call.wide), contract=contract, key=key)
    return out.astype(dtype)


def transformed(
    call: Call, leg: Leg, gemm: Gemm, operands: tuple[Array, Array]
) -> tuple[Array, Array]:
    """Both operands after the transform of the leg, in the wide dtype."""
    bound, held = bind(call, leg, gemm, operands)
    return bound.both(*held, stored(gemm))


def bind(
    call: Call, leg: Leg, gemm: Gemm, operands: tuple[Array, Array]
) -> tuple[cancelling.Cancelling, tuple[Array, Array]]:
    """The transform of the leg for its operands, and these in the wide dtype."""
    assert gemm.transform is not None
    lhs, rhs = (cancelling.held(x, call.wide) for x in operands)
    return cancelling.bind(gemm.transform, call.labels.paired(leg), lhs, rhs), (lhs, rhs)


def stored(gemm: Gemm) -> tuple[bool, bool]:
    """Which operands of a leg are there already as they are multiplied."""
    return isinstance(gemm.lhs, Stored), isinstance(gemm.rhs, Stored)


def _product(
    call: Call,
    leg: Leg,
    gemm: Gemm,
    implementation: Implementation,
    operands: tuple[Array, Array],
    like: Array | None,
) -> Array:
    labels = call.labels
    if isinstance(gemm.accumulator, IntegerAccumulator):
        return _on_codes(call, leg, gemm, operands, gemm.accumulator)
    way = plan(implementation, gemm, labels, leg, call.shapes, call.wide)
    if way is not REFERENCE:
        return execute(way, labels, leg, gemm, operands, call.key)
    first, second = values(call, leg, gemm, operands)
    if gemm.multiplier is not None and gemm.multiplier.exact and gemm.accumulator is None:
        first, second = gemm.multiplier.prepare(first, second)
    elif gemm.emulated:
        left, right, plain = labels.unfolded(leg, (first, second), call.shapes, call.extra)
        out = emulation.emulate(plain, left, right, gemm.multiplier, gemm.accumulator)
        return _shaped(call, leg, plain, out)
    return exact(call, leg, (first, second), like)


def exact(call: Call, leg: Leg, operands: tuple[Array, Array], like: Array | None) -> Array:
    """The product of a leg on values as they are, in the wide dtype."""
    wide_like = None if like is None else like.astype(call.wide)
    op = call.op.accumulate(call.wide)
    return _transposed(op, leg, operands, call.extra, wide_like)


def _on_codes(
    call: Call,
    leg: Leg,
    gemm: Gemm,
    operands: tuple[Array, Array],
    accumulator: IntegerAccumulator,
) -> Array:
    """The product of a leg on its integer codes."""
    keys = _keys(call, leg, gemm)
    labels, rest = call.labels, (call.shapes, call.extra)
    quantizers, axes = (gemm.lhs, gemm.rhs), labels.leg(leg)
    (a, s), (b, t) = (
        emulation.codes(quantizers[n], operands[n], axes[n], keys[n]) for n in range(2)
    )
    first, second, plain = labels.unfolded(leg, (a, b), *rest)
    # Scales are taken apart as the codes are; a single one stays.
    s = labels.unfolded(leg, (s, b), *rest)[0] if s.ndim else s
    t = labels.unfolded(leg, (a, t), *rest)[1] if t.ndim else t
    out = emulation.emulate_codes(plain, (first, second), (s, t), accumulator)
    return _shaped(call, leg, plain, out)


def _shaped(call: Call, leg: Leg, labels: Labelling, out: Array) -> Array:
    """A result with the elements of a leg's, in its shape."""
    if leg == "fwd":
        shapes = [jax.ShapeDtypeStruct(shape, call.wide) for shape in call.shapes]
        shape = jax.eval_shape(call.op, *shapes, *call.extra).shape
    else:
        shape = call.shapes[leg == "drhs"]
    missing = [n for n, label in enumerate(labels.out) if label not in labels.lhs + labels.rhs]
    if missing:
        # What is summed within one operand has the same gradient everywhere.
        out = jnp.expand_dims(out, missing)
        return jnp.broadcast_to(out, shape)
    return out.reshape(shape)


def _transposed(
    op: Operation,
    leg: Leg,
    operands: tuple[Array, Array],
    extra: tuple[Array, ...],
    like: Array | None,
) -> Array:
    """`op` itself, or its transpose in one operand, at the operands of a leg."""
    first, second = operands
    if leg == "fwd":
        return op(first, second, *extra)
    if leg == "dlhs":
        (gradient,) = jax.linear_transpose(lambda x: op(x, second, *extra), like)(first)
    else:
        (gradient,) = jax.linear_transpose(lambda x: op(first, x, *extra), like)(second)
    return gradient


def _keys(call: Call, leg: Leg, gemm: Gemm) -> tuple[Key | None, Key | None]:
    lhs, rhs = (
        None if quantizer is None else role_key(call.key, leg, n, quantizer)
        for n, quantizer in enumerate((gemm.lhs, gemm.rhs))
    )
    return lhs, rhs


def values(call: Call, leg: Leg, gemm: Gemm, operands: tuple[Array, Array]) -> tuple[Array, Array]:
    """Both operands of a leg, quantized, decoded and drawn from."""
    parts, keys = [], _keys(call, leg, gemm)
    for quantizer, x, axes, key in zip(
        (gemm.lhs, gemm.rhs), operands, call.labels.leg(leg), keys, strict=True
    ):
        if quantizer is None or isinstance(quantizer, OnGrid):
            parts.append((x.astype(call.wide),))
        elif isinstance(quantizer, BitSplit):
            parts.append(casts.parts(quantizer, x, axes, key, call.wide))
        else:
            assert not isinstance(quantizer, Operand), "trained operands are applied before"
            parts.append((casts.values(quantizer, x, axes, key, call.wide),))
    if gemm.sampling is None:
        return sampling.whole(parts[0]), sampling.whole(parts[1])
    key = role_key(call.key, leg, 6 - LEGS.index(leg), gemm)
    assert key is not None
    return gemm.sampling(parts[0], parts[1], call.labels.paired(leg), key)
