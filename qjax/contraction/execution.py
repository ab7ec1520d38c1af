"""How the product of one leg is carried out on quantized operands.

The reference decodes both operands to float32 and multiplies there. Two faster ways give
the same products. Where every value of both types is a bfloat16 (any MX type, block
floating point, integers and floats of eight bits), bfloat16 operands with a float32 sum
lose nothing. Where a scale is constant along the contracted axes it is taken out of the
sum, so that the codes alone are multiplied, as integers or as eight-bit floats where XLA
has them. Only the order and rounding of the float32 sum differ then; sums of integer codes
below 2**24 are exact in all ways. The reference is what a policy asks for by default,
because it alone gives the same bits whether the bits of a format are static or traced.
"""

import dataclasses
import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from qjax._typing import Array, DTypeLike, Key, Shape
from qjax.contraction.axes import Labelling, Labels, OperandAxes
from qjax.contraction.policy import LEGS, Gemm, Implementation, Leg
from qjax.formats import Int, PowerOfTwo
from qjax.qtypes import QType
from qjax.quantizer import Quantizer

Kind = Literal["float32", "bfloat16", "int8", "float8"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How one leg is carried out.

    Attributes:
      kind: What the multiplied numbers are.
      outside: Whether scales multiply the sum, not the operands.
    """

    kind: Kind
    outside: bool = False

    def __str__(self) -> str:
        native = {"int8": "native int8", "float8": "native float8", "bfloat16": "bfloat16 products"}
        return native.get(self.kind, "emulated")


REFERENCE = Plan("float32")
SMALLEST = 8


def plan(
    implementation: Implementation,
    gemm: Gemm,
    labels: Any,
    leg: Leg,
    shapes: tuple[Shape, Shape],
    wide: Any = jnp.float32,
) -> Plan:
    """Chooses how a leg is carried out.

    Args:
      implementation: What the policy asks for. None is the reference; "bfloat16" multiplies
        bfloat16 operands where that is exact; "xla" prefers int8 and float8 operands.
      gemm: The quantizers of the leg.
      labels: The axes of the operation.
      leg: The leg.
      shapes: Shapes of `lhs` and `rhs`, whichever the leg.
      wide: The dtype of the reference; float64 is always emulated.
    """
    quantizers = (gemm.lhs, gemm.rhs)
    if implementation in (None, "reference") or wide != jnp.float32 or not _is_product(labels, leg):
        return REFERENCE
    ordinary = gemm.accumulator is None and gemm.multiplier is None and gemm.sampling is None
    if not ordinary or not all(isinstance(q, Quantizer) and _is_static(q) for q in quantizers):
        return REFERENCE
    types: list[QType] = [q.qtype for q in quantizers]  # type: ignore[union-attr]
    outside = all(_is_outside(t) for t in types)
    native = implementation == "xla"
    if outside and native and all(_is_int8(t) for t in types):
        return Plan("int8", outside=True)
    if outside and native and all(_float8(t) for t in types):
        return Plan("float8", outside=True)
    if all(_fits_bfloat16(t) for t in types) and _is_matrix(labels, leg, shapes):
        power = all(_is_power(t) for t in types)
        if power or outside:
            return Plan("bfloat16", outside=not power)
    return REFERENCE


def execute(
    plan: Plan,
    labels: Any,
    leg: Leg,
    gemm: Gemm,
    operands: tuple[Array, Array],
    key: Key | None,
) -> Array:
    """The product of a leg, in float32, with the axes of the leg's result."""
    first, second, result = labels.roles(leg)
    values: list[Array] = []
    scales: list[Array | None] = []
    for n, (x, axes) in enumerate(zip(operands, labels.leg(leg), strict=True)):
        quantizer = (gemm.lhs, gemm.rhs)[n]
        assert isinstance(quantizer, Quantizer)
        noise = role_key(key, leg, n, quantizer)
        value, scale = _operand(plan, quantizer, x, axes, noise)
        values.append(value)
        scales.append(scale)
    total = jnp.int32 if plan.kind == "int8" else jnp.float32
    out = _product(first, second, result, values[0], values[1], total).astype(jnp.float32)
    for own, scale in zip((first, second), scales):
        out = out if scale is None else out * _along(own, result, scale)
    return out


def role_key(key: Key | None, leg: Leg, n: int, quantizer: Any) -> Key | None:
    """The key of one operand's noise: no two of the six operands share theirs.

    Raises:
      ValueError: If the quantizer needs a key and `key` is None.
    """
    if not quantizer.stochastic:
        return None
    if key is None:
        raise ValueError(
            f"The policy rounds an operand of `{leg}` stochastically, but no key came. "
            "Pass `key=` to the operation, or `rngs={'quant': key}` to a module's `apply`."
        )
    return jax.random.fold_in(key, 2 * LEGS.index(leg) + n)


def _operand(
    plan: Plan, quantizer: Quantizer, x: Array, axes: OperandAxes, key: Key | None
) -> tuple[Array, Array | None]:
    where = {"contract": axes.contract, "batch": axes.batch, "key": key}
    if not plan.outside:
        return quantizer.cast(x, **where, dtype=jnp.bfloat16), None
    dtype = {"int8": jnp.int8, "bfloat16": jnp.bfloat16}.get(plan.kind)
    return quantizer.units(x, **where, dtype=dtype or quantizer.qtype.format.dtype)


def _product(
    first: Labels, second: Labels, result: Labels, lhs: Array, rhs: Array, dtype: DTypeLike
) -> Array:
    """Sums over the labels that the result lacks."""
    batch = [label for label in first if label in second and label in result]
    contract = [label for label in first if label in second and label not in result]
    if jax.default_backend() == "cpu" and lhs.dtype == jnp.bfloat16:
        # XLA's CPU is twice as fast where the left operand is contracted along its last axes
        # and lies so in memory, which only a flat array behind a barrier makes it do.
        free = [label for label in first if label not in second]
        order = (*batch, *free, *contract)
        if order != first:
            lhs = lhs.transpose([first.index(x) for x in order])
            lhs = jax.lax.optimization_barrier(lhs.reshape(-1)).reshape(lhs.shape)
            first = order
    out = jax.lax.dot_general(
        lhs,
        rhs,
        (
            ([first.index(x) for x in contract], [second.index(x) for x in contract]),
            ([first.index(x) for x in batch], [second.index(x) for x in batch]),
        ),
        preferred_element_type=dtype,
    )
    has = [*batch, *(x for x in first if x not in second), *(x for x in second if x not in first)]
    return out.transpose([has.index(label) for label in result])


def _along(own: Labels, result: Labels, scale: Array) -> Array:
    """A scale, one for each tile of an operand, in a shape that broadcasts to the result."""
    kept = [i for i, label in enumerate(own) if label in result]
    scale = scale.reshape([scale.shape[i] for i in kept])
    labels = [own[i] for i in kept]
    order = [label for label in result if label in labels]
    scale = scale.transpose([labels.index(label) for label in order])
    sizes = dict(zip(order, scale.shape))
    return scale.reshape([sizes.get(label, 1) for label in result])


def _is_product(labels: Any, leg: Leg) -> bool:
    """Whether a leg is one dot product: every label stands in two of its three tensors."""
    if not isinstance(labels, Labelling) or labels.apart:
        return False
    parts = labels.roles(leg)
    if any(len(set(part)) < len(part) for part in parts):
        return False
    return all(sum(label in part for part in parts) >= 2 for label in set().union(*parts))


def _is_matrix(labels: Labelling, leg: Leg, shapes: tuple[Shape, Shape]) -> bool:
    """Whether a product is large enough to gain from narrow operands.

    XLA's CPU has no bfloat16 products of vectors and not all batched ones, and finds out when
    it is too late.
    """
    if any(label in labels.rhs and label in labels.out for label in labels.lhs):
        return False
    sizes = dict(zip(labels.lhs, shapes[0])) | dict(zip(labels.rhs, shapes[1]))
    first, second, result = labels.roles(leg)
    groups = [
        [label for label in first if label not in second],
        [label for label in second if label not in first],
        [label for label in first if label in second and label not in result],
    ]
    return all(math.prod(sizes[label] for label in group) >= SMALLEST for group in groups)


def _is_static(quantizer: Quantizer) -> bool:
    # Of the type alone: what makes the numbers, or holds them, may be traced.
    if quantizer.calibration.stateful:
        return False
    return all(isinstance(leaf, int | float) for leaf in jax.tree.leaves(quantizer.qtype))


def _is_outside(qtype: QType) -> bool:
    """Whether scales are constant along the contracted axes, and single along the others."""
    if qtype.scale is None:
        return True
    plain = qtype.scale.scale is None and qtype.zero is None
    return plain and qtype.tile.contract is None and qtype.tile.keep in (None, 1)


def _is_power(qtype: QType) -> bool:
    if qtype.zero is not None:
        return False
    scale = qtype.scale
    return scale is None or (isinstance(scale.format, PowerOfTwo) and scale.scale is None)


def _is_int8(qtype: QType) -> bool:
    return isinstance(qtype.format, Int) and qtype.format.signed and qtype.format.bits <= 8


def _float8(qtype: QType) -> bool:
    return qtype.format.dtype in (jnp.float8_e4m3fn, jnp.float8_e5m2)


def _fits_bfloat16(qtype: QType) -> bool:
    return qtype.zero is None and _values_fit(qtype.format)


@functools.lru_cache(maxsize=1024)
def _values_fit(format: Any) -> bool:
    if format.width > 12:
        return False
    with jax.ensure_compile_time_eval():
        values = np.asarray(format.values(), np.float32)
    values = values[np.isfinite(values)]
    return bool(np.all(values.astype(ml_dtypes.bfloat16).astype(np.float32) == values))
