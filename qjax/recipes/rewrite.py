"""Rewrites any JAX function so that chosen contractions compute in low precision.

The function is traced, and its program is evaluated again with every contraction that
`choose` gives a decision for replaced by the quantized one; `nested` does the same inside
loops, branches and calls. All else, and everything where nothing was chosen, is evaluated
as it was traced. The result is an ordinary function of arrays: it can be differentiated,
mapped and compiled. Arguments may be packed tensors; they reach their contractions as they
are (`stored`). Which contraction is chosen is none of this file's business.
"""

import collections
import contextlib
import dataclasses
import functools
import re
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, DropVar, Jaxpr, JaxprEqn, Literal, jaxpr_as_fun

from qjax._typing import Key, PyTree
from qjax.contraction.outside import needs_variables
from qjax.recipes import nested, stored
from qjax.recipes.ledger import Ledger
from qjax.recipes.noise import Noise, together
from qjax.recipes.places import Place, Wanted
from qjax.recipes.replacing import Choose, Decision, contract
from qjax.recipes.roles import Role, Roles
from qjax.recipes.walk import (
    CONTRACTIONS,
    is_gradient,
    is_marked,
    is_rule,
    mark_of,
    op_of,
    outside,
    scopes_of,
)


def rewrite(function: Callable[..., Any], choose: Choose) -> Callable[..., Any]:
    """Gives the function that computes chosen contractions as `choose` decides.

    Operands keep their sides: the right one of a contraction is what its policy calls
    `rhs`, the weight, unless `roles` says that only the left one is a weight. Integer
    contractions are exact and stay as they are; so do contractions that are quantized
    already. A `jax.custom_jvp` whose primal holds a chosen contraction is differentiated
    through that primal; a `jax.custom_vjp` keeps its rule, whose own contractions are
    rewritten too.

    Args:
      function: Function of arrays in pytrees.
      choose: Called for every contraction when the function is traced.

    Returns:
      A function of the same arguments and `key=`, `noise=`, `roles=`: `key` is the key of
      stochastic roundings, from which each contraction derives its own by its path (see
      `noise`); `roles` holds a `Role` for each array among the arguments (activations where
      None).

    Raises:
      ValueError: When called, if a chosen contraction stands where it cannot be replaced.
    """
    return functools.partial(Rewriter(choose).apply, function)


class Rewriter:
    """Evaluates programs with the contractions that `choose` names replaced.

    Attributes:
      choose: Decides about each contraction.
      compiled: Rewritten calls of `jax.jit`, by the program they call, so that calling a
        rewritten function again compiles nothing again.
    """

    def __init__(self, choose: Choose):
        self.choose = choose
        self.compiled: dict[Hashable, Callable[..., Any]] = {}

    def apply(
        self,
        function: Callable[..., Any],
        *args: PyTree,
        key: Key | None = None,
        noise: Noise | None = None,
        roles: Sequence[Role] | None = None,
        ledger: Ledger | None = None,
    ) -> Any:
        """Computes `function(*args)` rewritten; the arguments are explained in `rewrite`.

        What contractions learn and remember is read from `ledger`, which takes what it becomes.
        `noise` gives their keys where these do not all follow from `key`.
        """
        if noise is None and key is not None:
            noise = Noise(key)
        leaves, tree = jax.tree.flatten(args, is_leaf=stored.is_stored)
        shown = jax.tree.unflatten(tree, [stored.shape_of(x) for x in leaves])
        program, shapes = jax.make_jaxpr(function, return_shape=True)(*shown)
        given = [Role.ACTIVATION] * len(leaves) if roles is None else roles
        given = [Role.STORED if stored.is_stored(x) else r for x, r in zip(leaves, given)]
        out = self.run(program, leaves, given, Place(noise=noise, ledger=ledger))
        return jax.tree.unflatten(jax.tree.structure(shapes), stored.arrays(out))

    def run(
        self, program: ClosedJaxpr, args: Sequence[Any], roles: Sequence[Role], place: Place
    ) -> list[Any]:
        """Evaluates a program.

        Args:
          program: The program.
          args: Its arguments.
          roles: What they are.
          place: Where the program is called.

        Returns:
          Its results.
        """
        jaxpr = program.jaxpr
        values = dict(zip(jaxpr.constvars, program.consts))
        values.update(zip(jaxpr.invars, args, strict=True))
        known = Roles(jaxpr, roles)
        entries: collections.Counter[str] = collections.Counter()
        plain: list[JaxprEqn] = []
        for eqn in jaxpr.eqns:
            scopes = scopes_of(eqn, place.scopes)
            wanted = self.wants(eqn, scopes)
            moved = stored.move(eqn, [values.get(v) for v in map(stored.variable, eqn.invars)])
            if moved is not None:
                values[eqn.outvars[0]] = moved
            elif wanted is None and not nested.keeps(eqn, values, scopes):
                self._check_plain(eqn, values, scopes)
                plain.append(eqn)
            else:
                _evaluate(jaxpr, plain, values)
                plain = []
                entry = _entry(eqn, entries)
                inner = _inside(place, eqn, scopes, wanted or Wanted(), entry)
                operands = [_read(values, v) for v in eqn.invars]
                out = self.replace(eqn, operands, known.of(eqn.invars), inner)
                values.update(zip(eqn.outvars, out, strict=True))
                if place.ledger is not None and inner.ledger is not None:
                    place.ledger.join(entry, inner.ledger.taken)
            known.enter(eqn)
        _evaluate(jaxpr, plain, values)
        return [_read(values, v) for v in jaxpr.outvars]

    def wants(self, eqn: JaxprEqn, scopes: tuple[str, ...]) -> Wanted | None:
        """What is to be replaced in an equation; None where nothing is."""
        mark = mark_of(scopes)
        if mark is not None and (is_rule(eqn) or eqn.primitive.name in CONTRACTIONS):
            self.choose(mark[0], outside(scopes))  # It is there already: its rule has matched.
        if is_marked(scopes):
            return None
        if eqn.primitive.name in CONTRACTIONS:
            decision = self._decide(eqn, scopes)
            if decision is None:
                return None
            draws = ((decision.path, 1),) if decision.policy.stochastic else ()
            holds = needs_variables(decision.policy)
            return Wanted(draws, ((decision.path, decision.rule),) if holds else ())
        return _together([self.wants_in(inner, scopes) for inner in nested.programs(eqn)])

    def wants_in(self, program: Jaxpr, scopes: tuple[str, ...]) -> Wanted | None:
        """What is to be replaced in a program; None where nothing is."""
        return _together([self.wants(eqn, scopes_of(eqn, scopes)) for eqn in program.eqns])

    def _decide(self, eqn: JaxprEqn, scopes: tuple[str, ...]) -> Decision | None:
        if not all(jnp.issubdtype(v.aval.dtype, jnp.inexact) for v in eqn.invars[:2]):  # type: ignore[attr-defined]
            return None
        decision = self.choose(op_of(eqn, scopes), scopes)
        if decision is None or (decision.policy.is_identity and not decision.rule):
            return None
        return decision

    def _check_plain(self, eqn: JaxprEqn, values: dict[Any, Any], scopes: tuple[str, ...]) -> None:
        if eqn.primitive.name in CONTRACTIONS or is_marked(scopes):
            operands = [values.get(stored.variable(v)) for v in eqn.invars]
            stored.check_wanted("/".join(scopes), eqn.primitive.name, operands)

    def replace(
        self, eqn: JaxprEqn, operands: list[Any], roles: list[Role], place: Place
    ) -> Sequence[Any]:
        """What an equation of which something is replaced gives."""
        with _named(str(eqn.source_info.name_stack)):
            if eqn.primitive.name not in CONTRACTIONS:
                return nested.call(self, eqn, operands, roles, place)
            decision = self._decide(eqn, place.scopes)
            assert decision is not None
            return [contract(eqn, operands, roles, decision, place)]


def _together(found: "list[Wanted | None]") -> Wanted | None:
    wanted = [one for one in found if one is not None]
    if not wanted:
        return None
    holding = dict.fromkeys(each for one in wanted for each in one.variables)
    return Wanted(together(one.draws for one in wanted), tuple(holding))


def _entry(eqn: JaxprEqn, entries: "collections.Counter[str]") -> str:
    """What an equation is called in the ledger of its program: its names, joined by dots."""
    own = eqn.params.get("name", eqn.primitive.name)
    own = own if isinstance(own, str) else eqn.primitive.name
    names = (re.sub(r"\W+", "_", name).strip("_") for name in (*scopes_of(eqn, ()), own))
    name = ".".join(names)
    entries[name] += 1
    return f"{name}_{entries[name] - 1}" if entries[name] > 1 else name


def _inside(
    place: Place, eqn: JaxprEqn, scopes: tuple[str, ...], wanted: Wanted, entry: str
) -> Place:
    """Where an equation stands that is to be replaced, or holds what is."""
    ledger = None if place.ledger is None else place.ledger.child(entry)
    if ledger is not None and ledger.empty and not wanted.variables:
        ledger = None
    return dataclasses.replace(
        place,
        scopes=scopes,
        noise=place.noise if wanted.draws else None,
        gradient=place.gradient or is_gradient(eqn),
        ledger=ledger,
        wanted=wanted,
    )


def _evaluate(program: Jaxpr, eqns: list[JaxprEqn], values: dict[Any, Any]) -> None:
    """Evaluates equations of a program as they are, adding what they compute to `values`."""
    if not eqns:
        return
    results = [v for eqn in eqns for v in eqn.outvars if not isinstance(v, DropVar)]
    own = set(results)
    inputs = {v: None for eqn in eqns for v in eqn.invars if not isinstance(v, Literal)}
    free = [v for v in inputs if v not in own]
    part = program.replace(constvars=(), invars=free, outvars=results, eqns=eqns)
    out = jaxpr_as_fun(ClosedJaxpr(part, ()))(*stored.arrays(values[v] for v in free))
    values.update(zip(results, out, strict=True))


def _read(values: dict[Any, Any], var: Any) -> Any:
    return var.val if isinstance(var, Literal) else values[var]


def _named(scope: str) -> contextlib.AbstractContextManager[Any]:
    return jax.named_scope(scope) if scope else contextlib.nullcontext()
