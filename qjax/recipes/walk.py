"""Finds every contraction in a traced program, inside all that it calls.

Reads `jax.extend.core` programs and nothing else: no model, no policy.
"""

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var

from qjax._typing import Shape
from qjax.contraction.record import BEFORE, SCOPE

CONTRACTIONS = {
    "dot_general": "dot_general",
    "conv_general_dilated": "conv_general_dilated",
    "ragged_dot_general": "ragged_dot",
    "ragged_dot": "ragged_dot",
    "scaled_dot": "scaled_dot",
}
_MARK = re.compile(rf"{SCOPE}\[(\w+)(?::(\d+))?\]")

# What `jax.numpy.einsum` and the modules of a door leave among the names.
_SUBSCRIPTS = re.compile(r"[\w.\s]*(,[\w.\s]*)+(->[\w.\s]*)?|[\w.\s]*->[\w.\s]*")
_MODULE = re.compile(r"module\[(.*)\]")

_TRANSFORMED = re.compile(r"(?:(?:jvp|transpose|vmap|pmap|jit|checkpoint)\()+(.*?)\)+")


@dataclasses.dataclass(frozen=True)
class Found:
    """A contraction in a traced program.

    Attributes:
      op: Name of the operation.
      scopes: The names that surround it, outermost first.
      shapes: Shapes of both operands.
      flops: Multiplications and additions of one execution; 0 where `marked`.
      times: How often it runs, as far as loops say (a `while` counts once).
      marked: Whether it was quantized by this library.
      number: Which recorded contraction it is, where somebody listened to the tracing.
      dtypes: Of both operands; empty where `marked`.
    """

    op: str
    scopes: tuple[str, ...]
    shapes: tuple[Shape, Shape]
    flops: int
    times: int
    marked: bool = False
    number: int | None = None
    dtypes: tuple[str, ...] = ()


def contractions(program: Jaxpr, scopes: tuple[str, ...] = (), times: int = 1) -> Iterator[Found]:
    """Yields the contractions of a program in the order in which they stand.

    What is computed and never used is passed over.
    """
    for eqn in live(program):
        here = scopes_of(eqn, scopes)
        if BEFORE in here:
            continue
        mark = mark_of(here)
        if mark is not None:
            # Inside stand the emulated products of this one contraction: it counts once,
            # at the call that carries its derivative rule.
            if is_rule(eqn):
                op, number = mark
                yield Found(op, outside(here), _shapes(eqn), 0, times, True, number)
                continue
            if eqn.primitive.name not in CONTRACTIONS:
                yield from _inside(eqn, here, times)
                continue
        if eqn.primitive.name in CONTRACTIONS:
            op = op_of(eqn, outside(here))
            # Marked and alone: only what its operands went through before is quantized.
            number = None if mark is None else mark[1]
            dtypes = tuple(v.aval.dtype.name for v in eqn.invars[:2])  # type: ignore[attr-defined]
            said: dict[str, Any] = {"number": number, "dtypes": dtypes}
            yield Found(op, outside(here), _shapes(eqn), _flops(eqn), times, **said)
            continue
        yield from _inside(eqn, here, times)


def live(program: Jaxpr) -> list[JaxprEqn]:
    """The equations whose results somebody uses: a compiler drops the others."""
    used = {v for v in program.outvars if isinstance(v, Var)}
    live: list[JaxprEqn] = []
    for eqn in reversed(program.eqns):
        if eqn.effects or any(v in used for v in eqn.outvars):
            live.append(eqn)
            used.update(v for v in eqn.invars if isinstance(v, Var))
    return live[::-1]


def scopes_of(eqn: JaxprEqn, outer: tuple[str, ...]) -> tuple[str, ...]:
    """The names that surround an equation, inside those that surround its program.

    What JAX adds for its own transformations, as in `transpose(jvp(name))`, is left out.
    """
    names = (_TRANSFORMED.sub(r"\1", s) for s in str(eqn.source_info.name_stack).split("/"))
    return outer + tuple(name for name in names if name)


def op_of(eqn: JaxprEqn, scopes: tuple[str, ...]) -> str:
    """What rules call a contraction; a product that an einsum has written is an einsum."""
    op = CONTRACTIONS[eqn.primitive.name]
    return "einsum" if op == "dot_general" and scopes and is_subscripts(scopes[-1]) else op


def is_subscripts(scope: str) -> bool:
    """Whether a name is what an einsum leaves."""
    return _SUBSCRIPTS.fullmatch(scope) is not None


def module_scope(path: str) -> str:
    """The name that a module leaves around what it computes, wherever it is called."""
    return f"module[{path.replace('/', '|')}]"


def module_of(scope: str) -> list[str] | None:
    """The path in a name of `module_scope`, by parts; None for other names."""
    module = _MODULE.fullmatch(scope)
    if module is None:
        return None
    return module[1].split("|") if module[1] else []


def path_of(scopes: tuple[str, ...]) -> str:
    """The path that names spell: that of the innermost module, and the scopes inside it."""
    path: list[str] = []
    for scope in scopes:
        module = module_of(scope)
        if module is not None:
            path = module
        elif not is_subscripts(scope):
            path.append(scope)
    return "/".join(path)


def is_gradient(eqn: JaxprEqn) -> bool:
    """Whether an equation stands in the backward pass of a derivative taken inside."""
    return "transpose(" in str(eqn.source_info.name_stack)


def is_marked(scopes: tuple[str, ...]) -> bool:
    """Whether the names say that this library has quantized the contraction inside."""
    return mark_of(scopes) is not None or BEFORE in scopes


def mark_of(scopes: tuple[str, ...]) -> tuple[str, int | None] | None:
    """Operation and number of the quantized contraction that the names say is inside."""
    mark = next((m for s in scopes if (m := _MARK.fullmatch(s))), None)
    return None if mark is None else (mark[1], None if mark[2] is None else int(mark[2]))


def is_rule(eqn: JaxprEqn) -> bool:
    """Whether an equation is the call that carries a contraction's derivative rule."""
    return eqn.primitive.name.startswith("custom_vjp_call")


def _inside(eqn: JaxprEqn, scopes: tuple[str, ...], times: int) -> Iterator[Found]:
    inner = times * (eqn.params["length"] if eqn.primitive.name == "scan" else 1)
    for value in eqn.params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, ClosedJaxpr):
                yield from contractions(part.jaxpr, scopes, inner)
            elif isinstance(part, Jaxpr):
                yield from contractions(part, scopes, inner)


def outside(scopes: tuple[str, ...]) -> tuple[str, ...]:
    """The names without what this library has left there."""
    return tuple(s for s in scopes if not _MARK.fullmatch(s))


def _shapes(eqn: JaxprEqn) -> tuple[Shape, Shape]:
    shapes = [tuple(v.aval.shape) for v in eqn.invars if hasattr(v.aval, "shape")]  # type: ignore[attr-defined]
    # A trace may have folded constant operands into the call itself.
    first, second = [*shapes, (), ()][:2]
    return first, second


def _flops(eqn: JaxprEqn) -> int:
    params: dict[str, Any] = eqn.params
    (lhs, rhs), out = _shapes(eqn), eqn.outvars[0].aval.shape  # type: ignore[attr-defined]
    if eqn.primitive.name == "conv_general_dilated":
        # Each output sums over the window and over the input channels of its group.
        channels_out = rhs[params["dimension_numbers"].rhs_spec[0]]
        return 2 * math.prod(out) * math.prod(rhs) // max(channels_out, 1)
    if eqn.primitive.name == "dot_general":
        contracted = params["dimension_numbers"][0][0]
        return 2 * math.prod(out) * math.prod(lhs[i] for i in contracted)
    return 2 * math.prod(out) * (lhs[-1] if lhs else 1)
