"""Rewriting inside programs that hold programs: calls, loops, branches and rules.

Each handler rebuilds one construct through JAX's public function for it, with a rewritten
body. A construct that is not known here, and holds something to be replaced, is refused.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import (
    ClosedJaxpr,
    Jaxpr,
    JaxprEqn,
    jaxpr_as_fun,
    jaxprs_in_params,
)

from qjax.recipes import devices, loops, stored
from qjax.recipes.equations import alone
from qjax.recipes.ledger import Ledger
from qjax.recipes.places import Evaluator, Place
from qjax.recipes.roles import Role, outputs
from qjax.recipes.walk import is_marked, scopes_of

Handler = Callable[..., Sequence[Any]]


def programs(eqn: JaxprEqn) -> Iterator[Jaxpr]:
    """The programs that an equation holds."""
    yield from jaxprs_in_params(eqn.params)


def keeps(eqn: JaxprEqn, values: dict[Any, Any], scopes: tuple[str, ...]) -> bool:
    """Whether an equation holds programs that packed tensors shall reach as they are."""
    if is_marked(scopes):
        return False
    packed = any(stored.is_stored(values.get(stored.variable(v))) for v in eqn.invars)
    return packed and eqn.primitive.name in _HANDLERS and any(True for _ in programs(eqn))


def call(
    rewriter: Evaluator, eqn: JaxprEqn, args: list[Any], roles: list[Role], place: Place
) -> Sequence[Any]:
    """Evaluates an equation that holds programs, with these rewritten.

    Raises:
      ValueError: If the construct is not known.
    """
    handler = _HANDLERS.get(eqn.primitive.name)
    if handler is None:
        known = ", ".join(sorted(_HANDLERS))
        raise ValueError(
            f"`quantize` was asked for a contraction inside {eqn.primitive.name!r} at "
            f"{'/'.join(place.scopes) or 'the top'!r}, where it cannot be replaced; it can inside "
            f"{known}. Exempt it by a rule with `Policy()`, or call `qjax.dot_general` there."
        )
    if eqn.primitive.name == "custom_vjp_call":
        if place.wanted.variables:
            raise ValueError(_unlearnable(place))
        place = dataclasses.replace(place, ledger=None)
    return handler(rewriter, eqn, args, roles, place)


def _unlearnable(place: Place) -> str:
    asked = ", ".join(f"{path!r} by rule {rule!r}" for path, rule in place.wanted.variables)
    return (
        f"`quantize` was asked for contractions that learn or remember inside the "
        f"`jax.custom_vjp` at {'/'.join(place.scopes) or 'the top'!r}: {asked}. Its rule states "
        "every gradient there is, and none for values that are no arguments of it: they would "
        f"stay as they start. Put `Rule({place.wanted.variables[0][0]!r}, policy)` before, with a "
        "policy that holds no values, such as that of 'mxfp8', or `Policy()` for none; or quantize "
        "a function that is not under `jax.custom_vjp`."
    )


def _is_inexact(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.inexact)


def _closed(program: ClosedJaxpr | Jaxpr) -> ClosedJaxpr:
    return program if isinstance(program, ClosedJaxpr) else ClosedJaxpr(program, ())


def _inline(rewriter, eqn, args, roles, place):
    params = eqn.params
    program = _closed(params.get("call_jaxpr", params.get("jaxpr")))
    return rewriter.run(program, args, roles, place)


def _jit(rewriter, eqn, args, roles, place):
    params = eqn.params
    program: ClosedJaxpr = params["jaxpr"]
    at = dataclasses.replace(place, noise=None, ledger=None)
    kind = None if place.ledger is None else (place.ledger.building, place.ledger.diagnose)
    identity = (program, at, tuple(roles), kind)
    if identity not in rewriter.compiled:
        absent = "" if place.ledger is None else place.ledger.absent
        building = kind is not None and kind[0]
        blank = kind and Ledger(None if building else {}, diagnose=kind[1], absent=absent)
        outside = dataclasses.replace(at, ledger=blank)

        def body(given: Any, *args: Any) -> Any:
            here = outside.inside(given)
            return rewriter.run(program, args, roles, here), here.taken

        body.__name__ = params["name"]
        settings: dict[str, Any] = {}
        for name in ("in_shardings", "out_shardings"):
            given = tuple(s if isinstance(s, jax.sharding.Sharding) else None for s in params[name])
            if any(given):
                inward = name == "in_shardings"
                settings[name] = (None, *given) if inward else (list(given), None)
        rewriter.compiled[identity] = jax.jit(body, inline=params["inline"], **settings)
    out, taken = rewriter.compiled[identity](place.given, *args)
    place.close(taken)
    return out


def _checkpoint(rewriter, eqn, args, roles, place):
    params = eqn.params

    def body(given: Any, *args: Any) -> Any:
        here = place.inside(given)
        return rewriter.run(_closed(params["jaxpr"]), args, roles, here), here.taken

    keep = {name: params[name] for name in ("prevent_cse", "policy")}
    out, taken = jax.checkpoint(body, **keep)(place.given, *args)
    place.close(taken)
    return out


def _custom_vjp(rewriter, eqn, args, roles, place):
    """Keeps the user's rule, with the contractions of its two programs rewritten.

    `jax.vjp` of the call runs the rule, and what it saves for the backward pass is a pytree
    of arrays; both halves can therefore be traced and rewritten like any other program.
    """
    args = stored.arrays(args)  # The rule speaks of the arrays of its arguments.
    primal: ClosedJaxpr = eqn.params["call_jaxpr"]
    held = eqn.params["num_consts"]
    moving = [i for i, x in enumerate(args) if i >= held and _is_inexact(x)]
    smooth = [_is_inexact(v.aval) for v in eqn.outvars]
    own = len(scopes_of(eqn, ()))
    before = dataclasses.replace(place, scopes=place.scopes[: len(place.scopes) - own])

    @jax.custom_vjp
    def rewritten(given: Any, *args: Any) -> list[Any]:
        return rewriter.run(primal, args, roles, place.inside(given))

    def forward(given: Any, *args: Any) -> tuple[list[Any], Any]:
        trace = jax.make_jaxpr(lambda *xs: _run_rule(eqn, moving, smooth, xs), return_shape=True)
        program, shapes = trace(*args)
        # The call stands in this program under its own names once more.
        values = rewriter.run(program, args, roles, before.inside(given))
        out, pullback = jax.tree.unflatten(jax.tree.structure(shapes), values)
        kept = outputs(program, roles)[len(out) :]
        return out, (given, pullback, _Known(tuple(kept)))

    def backward(saved: Any, cotangents: list[Any]) -> tuple[Any, ...]:
        given, pullback, known = saved
        smooth_ones = [c for c, is_smooth in zip(cotangents, smooth) if is_smooth]
        program = jax.make_jaxpr(lambda pull, given: pull(given))(pullback, smooth_ones)
        inputs = [*jax.tree.leaves(pullback), *smooth_ones]
        inside = [*known.roles, *[Role.COTANGENT] * len(smooth_ones)]
        here = before.inside(given)
        noise = None if here.noise is None else here.noise.backward()
        here = dataclasses.replace(here, noise=noise, backward=True)
        found = dict(zip(moving, rewriter.run(program, inputs, inside, here)))
        return None, *(found.get(i) for i in range(len(args)))

    rewritten.defvjp(forward, backward)
    out = rewritten(place.given, *args)
    place.close(place.taken)
    return out


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Known:
    """Roles of what a forward rule saves, kept beside it."""

    roles: tuple[Role, ...]


def _run_rule(eqn: JaxprEqn, moving: list[int], smooth: list[bool], args: Any) -> tuple[Any, Any]:
    """Results of the call `eqn`, and the function that pulls their cotangents back."""
    original = jaxpr_as_fun(alone(eqn))

    def of_moving(*floats: Any) -> tuple[list[Any], list[Any]]:
        values = dict(enumerate(args)) | dict(zip(moving, floats))
        out = original(*(values[i] for i in range(len(args))))
        return [y for y, s in zip(out, smooth) if s], [y for y, s in zip(out, smooth) if not s]

    floats, pullback, others = jax.vjp(of_moving, *(args[i] for i in moving), has_aux=True)
    parts = {True: iter(floats), False: iter(others)}
    return [next(parts[s]) for s in smooth], pullback


_HANDLERS: dict[str, Handler] = {
    "jit": _jit,
    "pjit": _jit,
    "closed_call": _inline,
    "core_call": _inline,
    "custom_jvp_call": _inline,
    "custom_vjp_call": _custom_vjp,
    "checkpoint": _checkpoint,
    "remat": _checkpoint,
    "remat2": _checkpoint,
    "scan": loops.scan,
    "while": loops.while_loop,
    "cond": loops.cond,
    "shard_map": devices.shard_map,
}
