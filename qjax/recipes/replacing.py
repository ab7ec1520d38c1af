"""One contraction of a traced program, computed by a decision about it."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from jax.extend.core import JaxprEqn

from qjax._typing import Array
from qjax.contraction import Policy, conv_general_dilated, dot_general, einsum
from qjax.contraction.ragged import ragged_dot_general
from qjax.contraction.record import site
from qjax.recipes import stored
from qjax.recipes.devices import key_of
from qjax.recipes.places import Place
from qjax.recipes.roles import Role
from qjax.recipes.walk import op_of
from qjax.recipes.written import can_exchange, is_exchanged, subscripts_exchanged


class Decision(NamedTuple):
    """What one contraction computes in.

    Attributes:
      policy: Its policy.
      path: Its path in the model; the key of its noise follows from it.
      rule: The rule that chose; with a policy that quantizes nothing, why so.
      op: What the rule calls the operation, where that is not its name in the program.
    """

    policy: Policy
    path: str = ""
    rule: str = ""
    op: str = ""


class Choose(Protocol):
    """Decides about the contraction `op` that the names `scopes` surround; None leaves it."""

    def __call__(self, op: str, scopes: tuple[str, ...]) -> Decision | None: ...


def contract(
    eqn: JaxprEqn, operands: list[Any], roles: list[Role], decision: Decision, place: Place
) -> Array:
    """What the contraction `eqn` gives by `decision`.

    Raises:
      ValueError: If it computes a gradient, or quantizes what was decoded on its way here.
    """
    name = eqn.primitive.name
    if place.gradient and not place.backward:
        raise ValueError(
            f"`quantize` was asked for {decision.path or 'a contraction'!r} ({name}), which "
            "computes a gradient: the function differentiates inside. Quantize the function "
            "that is differentiated instead: `jax.grad(qjax.quantize(loss, recipe))`."
        )
    exchanged = is_exchanged(eqn, place.scopes)
    policy, swap = _for_roles(decision.policy, roles[0], roles[1], exchanged)
    noisy = place.noise is not None and decision.policy.stochastic
    key = key_of(place, decision.path, operands[:2]) if noisy else None
    settings = {"policy": policy, "key": key, "variables": place.ledger}
    with site(decision.path, decision.rule, decision.op or op_of(eqn, place.scopes)):
        if swap and can_exchange(eqn):
            sides = operands[1::-1]
            stored.check_kept(decision.path, name, sides, roles[1::-1], policy)
            return _exchanged(eqn, sides, settings)
        settings["policy"] = policy.flipped() if swap else policy
        stored.check_kept(decision.path, name, operands, roles, settings["policy"])
        return _apply(eqn, operands, settings)


def _for_roles(policy: Policy, lhs: Role, rhs: Role, exchanged: bool) -> tuple[Policy, bool]:
    """The policy given what the operands are, and whether it speaks of them the other way round."""
    if Role.COTANGENT in (lhs, rhs):
        # The backward rule of a custom_vjp: this is one of the other two legs, all of it.
        if lhs.held or rhs.held:
            gemm = policy.dlhs if lhs is Role.COTANGENT else policy.dlhs.flipped()
        else:
            gemm = policy.drhs if rhs is Role.COTANGENT else policy.drhs.flipped()
        if lhs is rhs:
            gemm = dataclasses.replace(gemm, lhs=gemm.rhs)
        return Policy(fwd=gemm, implementation=policy.implementation), False
    first, second = (rhs, lhs) if exchanged else (lhs, rhs)
    return policy, exchanged != (first.held and second is Role.ACTIVATION)


_DOORS: dict[str, Callable[..., Array]] = {
    "dot_general": dot_general,
    "conv_general_dilated": conv_general_dilated,
    "ragged_dot_general": ragged_dot_general,
}


def _apply(eqn: JaxprEqn, operands: list[Any], settings: dict[str, Any]) -> Array:
    """The contraction `eqn`, quantized: our functions take JAX's own parameters."""
    params = dict(eqn.params)
    if eqn.primitive.name == "ragged_dot_general":
        params.pop("out_sharding", None)
        params["group_offset"] = operands[3] if len(operands) > 3 else None
        operands = operands[:3]
    return _DOORS[eqn.primitive.name](*operands, **params, **settings)


def _exchanged(eqn: JaxprEqn, sides: list[Any], settings: dict[str, Any]) -> Array:
    params = {name: eqn.params[name] for name in ("precision", "preferred_element_type")}
    return einsum(subscripts_exchanged(eqn), *sides, **params, **settings)
