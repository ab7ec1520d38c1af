"""Rewriting inside loops and branches, with what their contractions learn and remember.

The turns of a loop share the values of a contraction, whose states go on from turn to turn.
Where the loop runs over stacked weights it is a stack of layers: each turn then has values of
its own, stacked like the weights. A branch has its own, and keeps them while another runs.
While values are being built, a loop of unknown length is built by its first turn.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from qjax.recipes import stored
from qjax.recipes.equations import as_it_is
from qjax.recipes.ledger import PARAMS
from qjax.recipes.places import Evaluator, Place
from qjax.recipes.roles import Role, scan_inputs, while_inputs


def scan(
    rewriter: Evaluator, eqn: JaxprEqn, args: list[Any], roles: list[Role], place: Place
) -> Sequence[Any]:
    """Evaluates a scan with a rewritten body."""
    params = eqn.params
    program, consts, carry = params["jaxpr"], params["num_consts"], params["num_carry"]
    inside = scan_inputs(params, roles)
    fixed, xs = args[:consts], args[consts + carry :]
    start = stored.arrays(args[consts : consts + carry])
    building = place.ledger is not None and place.ledger.building
    stacked = any(role.held for role in roles[consts + carry :])
    noise, values = place.given
    given = values or {}
    learnt = {name: given[name] for name in given if name == PARAMS}
    moving = {name: given[name] for name in given if name != PARAMS}

    def body(carried: tuple[Any, Any], x: tuple[Any, Any, list[Any]]) -> Any:
        turn, own, elements = x
        here = place.inside((noise, own if stacked else {**learnt, **carried[1]}))
        values = [*fixed, *carried[0], *elements]
        out = stored.arrays(rewriter.run(program, values, inside, _turn(here, turn)))
        each, shared = (here.taken, {}) if stacked or building else (None, here.taken)
        return (out[:carry], shared or {}), (each, out[carry:])

    turns = None if noise is None else jnp.arange(params["length"], dtype=jnp.uint32)
    keep = {name: params[name] for name in ("reverse", "length", "unroll")}
    first = (start, {} if stacked else moving)
    elements = (turns, given if stacked else None, xs)
    (last, shared), (each, ys) = jax.lax.scan(body, first, elements, **keep)
    if building and not stacked:
        place.close(jax.tree.map(lambda leaf: leaf[0], each))
    else:
        place.close(each if stacked else shared)
    return [*last, *ys]


def while_loop(
    rewriter: Evaluator, eqn: JaxprEqn, args: list[Any], roles: list[Role], place: Place
) -> Sequence[Any]:
    """Evaluates a while loop with a rewritten test and body."""
    params = eqn.params
    n, m = params["cond_nconsts"], params["body_nconsts"]
    tests, body = params["cond_jaxpr"], params["body_jaxpr"]
    inside = while_inputs(params, roles)
    start = stored.arrays(args[n + m :])

    def test(values: list[Any], here: Place) -> Any:
        seen = [*roles[:n], *inside[m:]]
        return stored.arrays(rewriter.run(tests, [*args[:n], *values], seen, here))[0]

    def turn_of(values: list[Any], here: Place) -> list[Any]:
        given = [*args[n : n + m], *values]
        return stored.arrays(rewriter.run(body, given, inside, here))

    if place.ledger is not None and place.ledger.building:
        for name, part in (("test", test), ("body", turn_of)):
            _in_child(place, name, lambda here, part=part: part(start, here))
        return as_it_is(eqn, args)
    noise, values = place.given
    given = values or {}
    learnt = {name: given[name] for name in given if name == PARAMS}
    moving = {name: given[name] for name in given if name != PARAMS}

    def go_on(state: tuple[Any, Any, list[Any]]) -> Any:
        turn, moved, values = state
        here = _turn(place.inside((noise, {**learnt, **moved})), turn)
        return _in_child(here, "test", lambda here: test(values, here))

    def step(state: tuple[Any, Any, list[Any]]) -> tuple[Any, Any, list[Any]]:
        turn, moved, values = state
        here = _turn(place.inside((noise, {**learnt, **moved})), turn)
        if here.noise is not None and tested is not None:
            here.noise.pass_over(tested.draws)
        out = _in_child(here, "body", lambda here: turn_of(values, here))
        return (None if turn is None else turn + 1), here.taken or {}, out

    tested = rewriter.wants_in(tests.jaxpr, place.scopes)
    first = None if noise is None else jnp.zeros((), jnp.uint32)
    _, moved, out = jax.lax.while_loop(go_on, step, (first, moving, start))
    place.close(moved)
    return out


def cond(
    rewriter: Evaluator, eqn: JaxprEqn, args: list[Any], roles: list[Role], place: Place
) -> Sequence[Any]:
    """Evaluates a choice between branches, all rewritten."""
    programs = eqn.params["branches"]

    def branch(n: int, operands: Sequence[Any], here: Place) -> list[Any]:
        def run(inner: Place) -> list[Any]:
            return stored.arrays(rewriter.run(programs[n], operands, roles[1:], inner))

        return _in_child(here, f"branch_{n}", run)

    if place.ledger is not None and place.ledger.building:
        for n in range(len(programs)):
            branch(n, args[1:], place)
        return as_it_is(eqn, args)

    def of(n: int) -> Any:
        def call(given: Any, *operands: Any) -> Any:
            here = place.inside(given)
            return branch(n, operands, here), here.taken

        return call

    calls = [of(n) for n in range(len(programs))]
    out, taken = jax.lax.switch(args[0], calls, place.given, *args[1:])
    place.close(taken)
    return out


def _in_child(place: Place, name: str, run: Any) -> Any:
    """Runs a part of a construct with its part of the ledger."""
    if place.ledger is None:
        return run(place)
    child = place.ledger.child(name)
    out = run(dataclasses.replace(place, ledger=child))
    place.ledger.join(name, child.taken)
    return out


def _turn(place: Place, turn: Any) -> Place:
    if turn is None or place.noise is None:
        return place
    return dataclasses.replace(place, noise=place.noise.turn(turn))
