"""One equation of a traced program, as a program and as a function of its operands."""

from collections.abc import Sequence
from typing import Any

from jax.extend.core import ClosedJaxpr, DebugInfo, Jaxpr, JaxprEqn, gensym, jaxpr_as_fun

from qjax.recipes import stored


def alone(eqn: JaxprEqn) -> ClosedJaxpr:
    """The program that consists of one equation, with an argument for each operand."""
    new = gensym()
    invars = [new(v.aval) for v in eqn.invars]
    names = DebugInfo("qjax", eqn.primitive.name, None, None)
    only = eqn.replace(invars=invars)  # type: ignore[arg-type]
    return ClosedJaxpr(Jaxpr((), invars, eqn.outvars, [only], eqn.effects, names), ())


def as_it_is(eqn: JaxprEqn, args: Sequence[Any]) -> Sequence[Any]:
    """What an equation computes where nothing in it is replaced."""
    return jaxpr_as_fun(alone(eqn))(*stored.arrays(args))
