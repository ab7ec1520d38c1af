"""What forward operands go through before the derivative rule of a contraction.

Trained operands, and quantizers whose calibration remembers, are applied here by ordinary
differentiable code; what is left for `bilinear` is the policy without them.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qjax._typing import Array, Key
from qjax.contraction import casts, facts
from qjax.contraction.accumulators import FloatAccumulator, IntegerAccumulator
from qjax.contraction.axes import Leg, OperandAxes
from qjax.contraction.choosing import Chosen
from qjax.contraction.execution import role_key
from qjax.contraction.gridded import OnGrid
from qjax.contraction.legs import Call, transformed
from qjax.contraction.operands import Estimated, Operand
from qjax.contraction.plans import plan
from qjax.contraction.policy import Gemm, Policy
from qjax.contraction.record import BEFORE, MAPPED
from qjax.contraction.settling import settle
from qjax.contraction.variables import Variables
from qjax.quantizer import Quantizer

SIDES = ("lhs", "rhs")


def trained(slot: Any) -> Operand | None:
    """The trained operand that a forward slot of a policy stands for; None for others."""
    if isinstance(slot, Quantizer) and slot.calibration.stateful:
        return Estimated(slot)
    return slot if isinstance(slot, Operand) else None


def needs_variables(policy: Policy) -> bool:
    """Whether an operand of the policy learns, remembers or adds to the loss."""
    return any(trained(slot) is not None for slot in policy.quantizers().values())


def prepare(
    name: str,
    call: Call,
    operands: tuple[Array, Array],
    policy: Policy,
    variables: Variables | None,
) -> tuple[Policy, tuple[Array, Array]]:
    """Applies the trained operands of the forward leg.

    Args:
      name: Of the operation, for messages.
      call: The contraction.
      operands: `lhs` and `rhs`.
      policy: How they are quantized.
      variables: Where the operands' values are.

    Returns:
      The policy without them, and the operands that are contracted: after the transform of the
      forward leg, if it has one.

    Raises:
      ValueError: If the policy needs `variables` or `key` and None came.
    """
    if variables is None:
        _refuse_without_variables(name, policy)
        return policy, operands
    if variables.diagnose:
        _observe(call, policy, operands, variables)
    live = [trained(slot) for slot in (policy.fwd.lhs, policy.fwd.rhs)]
    if any(live):
        policy, operands = _moved(call, policy, operands)
    out = list(operands)
    for n, (operand, axes) in enumerate(zip(live, call.labels.leg("fwd"), strict=True)):
        if operand is not None:
            key = role_key(call.key, "fwd", n, operand)
            done = _applied(operand, f"fwd_{SIDES[n]}", out[n], axes, key, variables)
            slot = _slot(name, policy.fwd, operand, out[n], done.params, axes)
            fwd = dataclasses.replace(policy.fwd, **{SIDES[n]: slot})
            out[n], policy = done.values, dataclasses.replace(policy, fwd=fwd)
            policy = policy if done.choice is None else _with_choice(policy, done.choice)
    return policy, (out[0], out[1])


def _refuse_without_variables(name: str, policy: Policy) -> None:
    if needs_variables(policy):
        raise ValueError(
            f"`{name}` was given a policy whose operands learn or remember, but no `variables`. "
            "Quantize the module or function that it stands in, or pass `variables=Values()` of "
            "`qjax.contraction.variables`."
        )


def _moved(
    call: Call, policy: Policy, operands: tuple[Array, Array]
) -> tuple[Policy, tuple[Array, Array]]:
    """The policy without the transform of the forward leg, and the operands after it."""
    if policy.fwd.transform is None:
        return policy, operands
    # What learns sees transformed values, so that its gradients are of these too.
    static, numbers = casts.split(policy.fwd)
    with jax.named_scope(BEFORE):
        operands = _mapped(dataclasses.replace(call, key=None), static, numbers, *operands)
    policy = dataclasses.replace(policy, fwd=dataclasses.replace(policy.fwd, transform=None))
    return policy, operands


def _mapped_here(call, static, numbers, lhs, rhs):
    first, second = transformed(call, "fwd", casts.merge(static, numbers), (lhs, rhs))
    return first.astype(lhs.dtype), second.astype(rhs.dtype)


# A call of this name, so that weights can be followed through it: it takes both operands last.
_mapped_here.__name__ = MAPPED
_mapped = jax.jit(_mapped_here, static_argnums=1)


def _slot(
    op: str, gemm: Gemm, operand: Operand, x: Array, params: Any, axes: OperandAxes
) -> OnGrid | None:
    """What is left of a trained operand in its leg once it is applied.

    Raises:
      ValueError: If the leg sums integers, and the operand gives none.
    """
    if not isinstance(gemm.accumulator, IntegerAccumulator):
        return None
    with jax.named_scope(BEFORE):
        step = operand.grid(x, params, contract=axes.contract, batch=axes.batch)
    if step is None:
        raise ValueError(
            f"`{op}` was given {gemm.accumulator!r} in `fwd` beside {operand!r}, whose values are "
            "not said to be integers times one step (`Operand.grid`). Leave out one of both."
        )
    format = operand.qtype.format
    if format.width - bool(getattr(format, "signed", True)) > jnp.finfo(x.dtype).nmant:
        raise ValueError(
            f"`{op}` was given {gemm.accumulator!r} in `fwd` beside {operand!r}, whose integers "
            f"are too wide for operands of {x.dtype}. Convert these with `.astype(jnp.float32)`."
        )
    return OnGrid(jax.lax.stop_gradient(step).astype(jnp.float32))


def refuse_mixed(op: str, leg: Leg, gemm: Gemm) -> None:
    """Refuses what would have to stand before an operand that learns or remembers.

    Raises:
      ValueError: If the leg transforms its operands, or sums their codes.
    """
    for part in (gemm.transform, gemm.accumulator):
        if part is not None and not isinstance(part, FloatAccumulator):
            raise ValueError(
                f"`{op}` was given {part!r} in `{leg}` beside an operand that learns or remembers, "
                "which is rounded before it. Leave out one of both."
            )


def _observe(
    call: Call, policy: Policy, operands: tuple[Array, Array], variables: Variables
) -> None:
    """Collects facts about the stateless quantizers of the forward leg."""
    gemm = policy.fwd
    way = plan(policy.implementation, gemm, call.labels, "fwd", call.shapes, call.wide)
    if gemm.transform is not None:
        operands = transformed(call, "fwd", gemm, operands)
    for n, (side, x) in enumerate(zip(SIDES, operands, strict=True)):
        quantizer, axes = getattr(gemm, side), call.labels.leg("fwd")[n]
        if isinstance(quantizer, Quantizer) and not quantizer.calibration.stateful:
            key = role_key(call.key, "fwd", n, quantizer)
            fixed = jax.lax.stop_gradient(x)
            found = facts.of_quantizer(quantizer, fixed, axes, key, way=way)
            variables.observe(f"fwd_{side}", found)


class _Applied(NamedTuple):
    """What a trained operand gave: values, what it has learned, and its choice."""

    values: Array
    params: Any
    choice: Array | None


def _applied(
    operand: Operand,
    name: str,
    x: Array,
    axes: OperandAxes,
    key: Key | None,
    variables: Variables,
) -> _Applied:
    """What a trained operand makes of `x`, and what it chose for the other legs."""
    place: Any = {"contract": axes.contract, "batch": axes.batch}
    params, state = {}, ()
    fixed = jax.lax.stop_gradient(x)
    # Shapes say whether there is anything; what it holds is found where it lives.
    if jax.tree.leaves(jax.eval_shape(lambda: operand.params(fixed, **place))):
        params = variables.learned(name, lambda: operand.params(fixed, **place))
    if jax.tree.leaves(jax.eval_shape(lambda: operand.state(fixed, **place))):
        state = variables.remembered(name, lambda: operand.state(fixed, **place))
    # What an operand multiplies for itself is no contraction of the model.
    with jax.named_scope(BEFORE):
        values, following = operand.apply(x, params, state, key=key, **place)
        penalty = operand.penalty(x, params, **place) if operand.penalized else None
        choice = operand.choice(fixed, params, contract=axes.contract)
    if jax.tree.leaves(state):
        variables.remember(name, settle(following, state))
    if penalty is not None:
        variables.penalize(name, penalty)
    if variables.diagnose:
        if isinstance(operand, Estimated):
            found = facts.of_quantizer(operand.quantizer, fixed, axes, key, state=state)
        else:
            found = facts.of_operand(operand, fixed, jax.lax.stop_gradient(values), **place)
        variables.observe(name, found)
    choice = None if choice is None else jax.lax.stop_gradient(choice)
    return _Applied(values.astype(x.dtype), params, choice)


def _with_choice(policy: Policy, choice: Array) -> Policy:
    """The policy whose backward legs know which choice each sample took."""
    legs = {}
    for leg in ("dlhs", "drhs"):
        gemm: Gemm = getattr(policy, leg)
        slots = {side: getattr(gemm, side) for side in SIDES}
        known = {
            side: dataclasses.replace(slot, choice=choice)
            for side, slot in slots.items()
            if isinstance(slot, Chosen)
        }
        legs[leg] = dataclasses.replace(gemm, **known)
    return dataclasses.replace(policy, **legs)
