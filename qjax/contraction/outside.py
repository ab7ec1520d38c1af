"""What forward operands go through before the derivative rule of a contraction.

Trained operands, and quantizers whose calibration remembers, are applied here by ordinary
differentiable code; what is left for `bilinear` is the policy without them.
"""

import dataclasses
from typing import Any

import jax

from qjax._typing import Array, Key
from qjax.contraction.axes import Axes, OperandAxes
from qjax.contraction.execution import role_key
from qjax.contraction.operands import Estimated, Operand
from qjax.contraction.policy import Policy
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
    labels: Axes,
    operands: tuple[Array, Array],
    policy: Policy,
    key: Key | None,
    variables: Variables | None,
) -> tuple[Policy, tuple[Array, Array]]:
    """Applies the trained operands of the forward leg.

    Args:
      name: Of the operation, for messages.
      labels: Its axes.
      operands: `lhs` and `rhs`.
      policy: How they are quantized.
      key: Key of the contraction's noise.
      variables: Where the operands' values are.

    Returns:
      The policy without them, and the operands that are contracted.

    Raises:
      ValueError: If the policy needs `variables` or `key` and None came.
    """
    if not needs_variables(policy):
        return policy, operands
    if variables is None:
        raise ValueError(
            f"`{name}` was given a policy whose operands learn or remember, but no `variables`. "
            "Quantize the module or function that it stands in, or pass `variables=Values()` of "
            "`qjax.contraction.variables`."
        )
    left = {s: None for s in SIDES if trained(getattr(policy.fwd, s)) is not None}
    if left and policy.fwd.transform is not None:
        raise ValueError(
            f"`{name}` was given {policy.fwd.transform!r} before an operand that learns or "
            "remembers, whose values would be transformed after it. Leave out one of both."
        )
    out = []
    for n, (side, x, axes) in enumerate(zip(SIDES, operands, labels.leg("fwd"), strict=True)):
        operand = trained(getattr(policy.fwd, side))
        if operand is None:
            out.append(x)
            continue
        noise = role_key(key, "fwd", n, operand)
        out.append(_applied(operand, side, x, axes, noise, variables))
    policy = dataclasses.replace(policy, fwd=dataclasses.replace(policy.fwd, **left))
    return policy, (out[0], out[1])


def _applied(
    operand: Operand,
    side: str,
    x: Array,
    axes: OperandAxes,
    key: Key | None,
    variables: Variables,
) -> Array:
    place: Any = {"contract": axes.contract, "batch": axes.batch}
    name = f"fwd_{side}"
    params, state = {}, ()
    fixed = jax.lax.stop_gradient(x)
    # Shapes say whether there is anything; what it holds is found where it lives.
    if jax.tree.leaves(jax.eval_shape(lambda: operand.params(fixed, **place))):
        params = variables.learned(name, lambda: operand.params(fixed, **place))
    if jax.tree.leaves(jax.eval_shape(lambda: operand.state(fixed, **place))):
        state = variables.remembered(name, lambda: operand.state(fixed, **place))
    values, following = operand.apply(x, params, state, key=key, **place)
    if jax.tree.leaves(state):
        variables.remember(name, jax.lax.stop_gradient(following))
    if operand.penalized:
        penalty = operand.penalty(x, params, **place)
        if penalty is not None:
            variables.penalize(name, penalty)
    return values.astype(x.dtype)
