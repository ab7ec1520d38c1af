"""The one derivative rule for contractions.

Every contraction is linear in each of its operands, so its two gradients are its
transposes, which `jax.linear_transpose` derives: dot_general, einsum, convolution and
ragged products differ only in which axes each leg contracts. This file quantizes the
operands of the three legs and transposes; it knows no operation by name.
"""

import functools
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp

from qjax._typing import Array, DTypeLike, Key, PyTree
from qjax.contraction.axes import Axes
from qjax.contraction.execution import REFERENCE, execute, plan, role_key
from qjax.contraction.policy import Gemm, Leg, Policy


class Operation(Protocol):
    """A bilinear operation: hashable, and callable on two arrays.

    Some take further arrays that they are not linear in, such as the sizes of groups.
    `labels` says which axes are contracted, given the numbers of axes of the operands;
    `accumulate` gives the same operation with its result left in the dtype asked for.
    """

    __call__: Callable[..., Array]

    def labels(self, lhs_ndim: int, rhs_ndim: int) -> Axes: ...

    def accumulate(self, dtype: DTypeLike) -> "Operation": ...


def contract(
    op: Operation,
    lhs: Array,
    rhs: Array,
    policy: Policy,
    key: Key | None = None,
    extra: tuple[Array, ...] = (),
) -> Array:
    """Computes `op(lhs, rhs)` and its gradients as `policy` says.

    With a policy that quantizes nothing this *is* `op(lhs, rhs)`. Otherwise quantized
    operands are decoded to float32 (float64 for float64 inputs), contracted there, and
    the result is rounded once to the dtype that `op` gives.

    Args:
      op: The operation.
      lhs: Floating-point array.
      rhs: Floating-point array.
      policy: Its bits may be traced.
      key: Key of the noise of stochastic roundings. Each of the six operands uses its
        own noise, derived from the key and the operand's role.
    """
    if policy.is_identity:
        return op(lhs, rhs, *extra)
    static, numbers = _split(policy)
    return _bilinear(op, static, lhs, rhs, extra, numbers, key)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _bilinear(op, static, lhs, rhs, extra, numbers, key):
    return _forward(op, static, lhs, rhs, extra, numbers, key)[0]


def _forward(op, static, lhs, rhs, extra, numbers, key):
    policy = _merge(static, numbers)
    residuals = (lhs, rhs, extra, numbers, key)
    if policy.fwd.is_identity:
        return op(lhs, rhs, *extra), residuals
    wide = _wide(lhs, rhs)
    labels = op.labels(lhs.ndim, rhs.ndim)
    way = plan(policy.implementation, policy.fwd, labels, "fwd", (lhs.shape, rhs.shape), wide)
    if way is REFERENCE:
        first, second = _quantized(labels, "fwd", policy.fwd, (lhs, rhs), key, wide)
        out = op.accumulate(wide)(first, second, *extra)
    else:
        out = execute(way, labels, "fwd", policy.fwd, (lhs, rhs), key)
    return out.astype(jax.eval_shape(op, lhs, rhs, *extra).dtype), residuals


def _backward(op, static, residuals, cotangent):
    lhs, rhs, extra, numbers, key = residuals
    policy = _merge(static, numbers)
    dlhs = _transpose(op, "dlhs", policy, lhs, rhs, extra, cotangent, key)
    drhs = _transpose(op, "drhs", policy, lhs, rhs, extra, cotangent, key)
    return dlhs, drhs, None, None, None


def _transpose(
    op: Operation,
    leg: Leg,
    policy: Policy,
    lhs: Array,
    rhs: Array,
    extra: tuple[Array, ...],
    cotangent: Array,
    key: Key | None,
) -> Array:
    left = leg == "dlhs"
    gemm = policy.dlhs if left else policy.drhs
    primal = lhs if left else rhs
    dtype = primal.dtype
    if not gemm.is_identity:
        # The labels are those of the whole operation, so they are read before the cotangent
        # takes the place of an operand.
        wide = _wide(lhs, rhs)
        labels = op.labels(lhs.ndim, rhs.ndim)
        pair = (cotangent, rhs) if left else (lhs, cotangent)
        way = plan(policy.implementation, gemm, labels, leg, (lhs.shape, rhs.shape), wide)
        if way is not REFERENCE:
            return execute(way, labels, leg, gemm, pair, key).astype(primal.dtype)
        first, second = _quantized(labels, leg, gemm, pair, key, wide)
        lhs, rhs, cotangent = (lhs, second, first) if left else (first, rhs, second)
        op, dtype = op.accumulate(wide), wide
    linear = (lambda x: op(x, rhs, *extra)) if left else (lambda x: op(lhs, x, *extra))
    # An array stands for its type here: it knows its sharding and manual axes too.
    (gradient,) = jax.linear_transpose(linear, primal.astype(dtype))(cotangent)
    return gradient.astype(primal.dtype)


_bilinear.defvjp(_forward, _backward)


def _quantized(
    labels: Axes,
    leg: Leg,
    gemm: Gemm,
    operands: tuple[Array, Array],
    key: Key | None,
    dtype: DTypeLike,
) -> list[Array]:
    """Both operands of a leg, quantized and decoded to `dtype`."""
    out = []
    for n, (quantizer, x, axes) in enumerate(
        zip((gemm.lhs, gemm.rhs), operands, labels.leg(leg), strict=True)
    ):
        if quantizer is None:
            out.append(x.astype(dtype))
            continue
        noise = role_key(key, leg, n, quantizer)
        out.append(
            quantizer.cast(x, contract=axes.contract, batch=axes.batch, key=noise, dtype=dtype)
        )
    return out


def _wide(*arrays: Array) -> DTypeLike:
    return jnp.float64 if any(x.dtype == jnp.float64 for x in arrays) else jnp.float32


def _split(policy: Policy) -> tuple[tuple, tuple]:
    # Numbers written in Python stay static, so that XLA specialises on them; arrays and
    # traced numbers are passed as arguments, because a `custom_vjp` may not close over them.
    leaves, treedef = jax.tree.flatten(policy)
    dynamic = tuple(isinstance(leaf, jax.Array) for leaf in leaves)
    fixed = tuple(None if moves else leaf for leaf, moves in zip(leaves, dynamic))
    return (treedef, fixed), tuple(leaf for leaf, moves in zip(leaves, dynamic) if moves)


def _merge(static: tuple, numbers: PyTree) -> Policy:
    treedef, fixed = static
    moving = iter(numbers)
    return jax.tree.unflatten(treedef, [next(moving) if x is None else x for x in fixed])
