"""The one derivative rule for contractions.

Every contraction is linear in each of its operands, so its two gradients are its
transposes: dot_general, einsum, convolution and ragged products differ only in which axes
each leg contracts. This file says what the backward pass is given and in which order the legs
are computed; `legs` computes one, and neither knows an operation by name.
"""

import dataclasses
import functools

import jax

from qjax._typing import Array, Key
from qjax.apart import apart
from qjax.contraction import legs, residuals, straight
from qjax.contraction.axes import Leg
from qjax.contraction.casts import merge, split
from qjax.contraction.legs import Operation
from qjax.contraction.memory import Memory, join, recall
from qjax.contraction.policy import Gemm, Implementation, Policy


def contract(
    op: Operation,
    lhs: Array,
    rhs: Array,
    policy: Policy,
    key: Key | None = None,
    extra: tuple[Array, ...] = (),
) -> Array:
    """Computes `op(lhs, rhs)` and its gradients as `policy` says.

    With a policy that changes nothing this *is* `op(lhs, rhs)`. Otherwise quantized
    operands are decoded to float32 (float64 for float64 inputs), contracted there, and
    the result is rounded once to the dtype that `op` gives.

    Args:
      op: The operation.
      lhs: Floating-point array.
      rhs: Floating-point array.
      policy: Its bits may be traced.
      key: Key of the noise of stochastic roundings. Each of the six operands uses its
        own noise, derived from the key and the operand's role.
      extra: Arrays that `op` takes besides and is not linear in.
    """
    return remember(op, lhs, rhs, policy, key, extra, Memory())[0]


def remember(
    op: Operation,
    lhs: Array,
    rhs: Array,
    policy: Policy,
    key: Key | None,
    extra: tuple[Array, ...],
    memory: Memory,
) -> tuple[Array, Memory]:
    """Computes what `contract` does, where operands of the backward pass remember.

    Args:
      op: The operation; the arguments that are not named here are those of `contract`.
      memory: What the backward pass is given; its cotangent is what it has made of it.

    Returns:
      The result, and the memory for the next call.
    """
    if policy.is_identity:
        return op(lhs, rhs, *extra), memory
    static, numbers = split(policy)
    return _bilinear(op, static, lhs, rhs, extra, numbers, key, memory)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _bilinear(op, static, lhs, rhs, extra, numbers, key, memory):
    return _forward(op, static, lhs, rhs, extra, numbers, key, memory)[0]


def _forward(op, static, lhs, rhs, extra, numbers, key, memory):
    policy = merge(static, numbers)
    call = legs.Call(op, (lhs.shape, rhs.shape), legs.wide(lhs, rhs), extra, key)
    out = _leg(call, "fwd", policy.fwd, policy.implementation, (lhs, rhs))
    special = residuals.special(policy)
    kept = residuals.keep(call, policy, lhs, rhs) if special else residuals.Kept(lhs, rhs)
    return (out, memory), (kept, extra, numbers, key, memory)


def _backward(op, static, saved, cotangents):
    kept, extra, numbers, key, memory = saved
    cotangent, later = cotangents
    policy = merge(static, numbers)
    lhs, rhs = kept.operands()
    shapes, decoded = (lhs.shape, rhs.shape), policy.keeps_codes
    call = legs.Call(op, shapes, legs.wide(lhs, rhs), extra, key, decoded)
    as_it_is = policy.dlhs.lhs is None or policy.drhs.rhs is None
    if as_it_is and not call.labels.leg("fwd")[0].batch:
        cotangent = _made_once(cotangent)
    found, seen = [], []
    each: tuple[tuple[Leg, Gemm, Array, Array, Array], ...] = (
        ("dlhs", policy.dlhs, cotangent, rhs, lhs),
        ("drhs", policy.drhs, lhs, cotangent, rhs),
    )
    for leg, gemm, first, second, like in each:
        left, gemm, pair, noted = recall(
            call, leg, gemm, policy.implementation, (first, second), memory
        )
        found.append(_leg(left, leg, gemm, policy.implementation, pair, like))
        seen.append(noted)
    dlhs, drhs = residuals.gradients(call, policy, kept, found)
    return dlhs, drhs, None, None, None, join(seen, later)


_bilinear.defvjp(_forward, _backward)


def _leg(
    call: legs.Call,
    leg: Leg,
    gemm: Gemm,
    implementation: Implementation,
    operands: tuple[Array, Array],
    like: Array | None = None,
) -> Array:
    """`legs.compute`, once for all contractions of the same shapes and static numbers."""
    # What tells where it stands must be traced there.
    telling = any(getattr(slot, "tells_place", False) for slot in (gemm.lhs, gemm.rhs))
    if not gemm.stochastic:
        call = dataclasses.replace(call, key=None)  # Which it is, or why there is none, is all one.
    if telling or (gemm.is_identity and not call.decoded):
        return legs.compute(call, leg, gemm, implementation, operands, like)
    static, numbers = split(gemm)
    # No other leg shares a cast that draws noise, and whole legs hold less at a time.
    compiled = _compiled_apart if gemm.stochastic else _compiled
    return compiled(call, leg, static, numbers, implementation, operands, like)


def _merged(call, leg, static, numbers, implementation, operands, like):
    return straight.compute(leg, implementation, static, numbers, call, operands, like)


_compiled = jax.jit(_merged, static_argnums=(1, 2, 4))
_compiled_apart = apart(_merged, static_argnums=(1, 2, 4))


# Both backward legs read the gradient, one of them along columns. Where they read it as it is,
# XLA's CPU would make it in both, and read all that it is made of along columns. (Of batched
# products it may choose how the gradient lies in memory, and with it the order of their sums.)
_made_once = apart(lambda x: x)
