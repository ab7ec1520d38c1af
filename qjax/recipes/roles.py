"""What the values of a traced program are: constants, weights, activations or gradients.

The caller says what the arguments of a program are; everything computed from them takes
the strongest role among its operands. A weight that is scaled, cast or transposed is still
a weight; whatever meets an activation is an activation, and whatever meets a cotangent is
a gradient. Nothing is evaluated.
"""

import enum
from collections.abc import Callable, Sequence
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var


class Role(enum.IntEnum):
    """What a value is. Of several operands, the one with the greatest role decides."""

    CONSTANT = 0
    WEIGHT = 1
    STORED = 2  # A weight that came packed, or something computed from one.
    ACTIVATION = 3
    COTANGENT = 4

    @property
    def held(self) -> bool:
        """Whether it is a weight, packed or not."""
        return self in (Role.WEIGHT, Role.STORED)


class Roles:
    """The roles of the variables of one program, filled in as its equations are passed.

    Args:
      program: The program.
      inputs: Roles of its `invars`. Its `constvars` are constants, unless `consts` is given.
      consts: Roles of its `constvars`.
    """

    def __init__(self, program: Jaxpr, inputs: Sequence[Role], consts: Sequence[Role] = ()):
        self._of: dict[Var, Role] = dict(zip(program.constvars, consts))
        self._of.update(zip(program.invars, inputs, strict=True))

    def __getitem__(self, var: Any) -> Role:
        return Role.CONSTANT if isinstance(var, Literal) else self._of.get(var, Role.CONSTANT)

    def of(self, variables: Sequence[Any]) -> list[Role]:
        """Roles of several variables."""
        return [self[var] for var in variables]

    def enter(self, eqn: JaxprEqn) -> None:
        """Finds the roles of what `eqn` computes."""
        self._of.update(zip(eqn.outvars, flow(eqn, self.of(eqn.invars)), strict=True))


def outputs(program: ClosedJaxpr | Jaxpr, inputs: Sequence[Role]) -> list[Role]:
    """Roles of the results of a program, given those of its arguments."""
    jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
    roles = Roles(jaxpr, inputs)
    for eqn in jaxpr.eqns:
        roles.enter(eqn)
    return roles.of(jaxpr.outvars)


def flow(eqn: JaxprEqn, inputs: Sequence[Role]) -> list[Role]:
    """Roles of the results of one equation, given those of its operands."""
    name, params = eqn.primitive.name, eqn.params
    if name in _SPECIAL:
        return _SPECIAL[name](params, list(inputs))
    inner = params.get("call_jaxpr", params.get("jaxpr"))
    if isinstance(inner, ClosedJaxpr | Jaxpr):
        jaxpr = inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner
        if len(jaxpr.invars) == len(inputs) and len(jaxpr.outvars) == len(eqn.outvars):
            return outputs(jaxpr, inputs)
    return [_strongest(inputs)] * len(eqn.outvars)


def scan_inputs(params: dict[str, Any], inputs: list[Role]) -> list[Role]:
    """Roles of the arguments of a scan's body in all its iterations together."""
    consts, carry = params["num_consts"], params["num_carry"]
    return _settle(params["jaxpr"], inputs, slice(consts, consts + carry))


def while_inputs(params: dict[str, Any], inputs: list[Role]) -> list[Role]:
    """Roles of the arguments of a while loop's body in all its iterations together."""
    own = inputs[params["cond_nconsts"] :]
    return _settle(params["body_jaxpr"], own, slice(params["body_nconsts"], None))


def _settle(body: ClosedJaxpr, inputs: list[Role], carry: slice) -> list[Role]:
    # Roles only grow, and there are few: this ends.
    inputs = list(inputs)
    while True:
        before = inputs[carry]
        after = outputs(body, inputs)[: len(before)]
        inputs[carry] = [max(pair) for pair in zip(before, after)]
        if inputs[carry] == before:
            return inputs


def _scan(params: dict[str, Any], inputs: list[Role]) -> list[Role]:
    return outputs(params["jaxpr"], scan_inputs(params, inputs))


def _while(params: dict[str, Any], inputs: list[Role]) -> list[Role]:
    return while_inputs(params, inputs)[params["body_nconsts"] :]


def _cond(params: dict[str, Any], inputs: list[Role]) -> list[Role]:
    # Which branch runs does not say what its result is.
    branches = [outputs(branch, inputs[1:]) for branch in params["branches"]]
    return [_strongest(roles) for roles in zip(*branches)]


def _strongest(roles: Sequence[Role]) -> Role:
    return max(roles, default=Role.CONSTANT)


_SPECIAL: dict[str, Callable[[dict[str, Any], list[Role]], list[Role]]] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}
