"""What a model really computes in: a row for every contraction, quantized or not.

The program is traced, never run. Whatever a rule asked for and did not get is a row that
says so, and with `strict` an error.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from qjax.contraction.plans import choose
from qjax.contraction.policy import LEGS, Gemm, Leg
from qjax.contraction.record import Contraction, Heard, listen
from qjax.contraction.residuals import rounded
from qjax.contraction.storage import stored_bits, stored_name
from qjax.quantizer import Stored
from qjax.recipes.rules import Recipe, Rule
from qjax.recipes.table import FLOAT, Report, Row
from qjax.recipes.walk import Found, contractions


def build(
    function: Callable[..., Any], *args: Any, path_of: Callable[[tuple[str, ...]], str]
) -> Report:
    """Traces `function(*args)` and lists its contractions.

    Args:
      function: A function of arrays.
      *args: Arrays, or their shapes as `jax.ShapeDtypeStruct`, in pytrees.
      path_of: Turns the names that surround an operation into its path in the model.
    """
    with listen() as heard:
        program = jax.make_jaxpr(function)(*args)
    by_number = {c.number: c for c in heard.contractions}
    used: dict[str, set[int]] = {}
    rows = [_row(found, by_number, heard, used, path_of) for found in contractions(program.jaxpr)]
    unmatched = [
        unmatched_message(recipe, n, rule, [row.path for row in rows])
        for region, recipe in heard.regions
        for n, rule in recipe.unmatched(used.get(region, ()))
    ]
    return Report(tuple(rows), tuple(dict.fromkeys(unmatched)))


def unmatched_message(recipe: Recipe, place: int, rule: Rule, paths: list[str]) -> str:
    """Says that a rule matched nothing, and what it could have matched."""
    known = ", ".join(repr(p) for p in dict.fromkeys(paths))
    ops = "" if rule.ops is None else f" and ops {list(rule.ops)}"
    asked = f"Rule {place + 1} of recipe {recipe.name!r} asks for path {rule.path!r}{ops}, but "
    if not known:
        return asked + (
            "no layer contracts anything. Products that a module writes by hand are quantized in "
            "the function that applies it, `qjax.quantize(apply, recipe, weights=0)`, or by "
            "`qjax.einsum(..., policy=policy)` in their place."
        )
    return asked + (
        f"no contraction matched it. The paths are: {known}. Correct the rule, or mark it "
        "`optional=True`."
    )


def _row(
    found: Found,
    by_number: dict[int, Contraction],
    heard: Heard,
    used: dict[str, set[int]],
    path_of: Callable[[tuple[str, ...]], str],
) -> Row:
    known = by_number.get(found.number) if found.number is not None else None
    # A policy given by hand stands at no place that a rule knows, but under a module's name.
    placed = known is not None and bool(known.path or known.rule)
    path = known.path if known is not None and placed else path_of(found.scopes)
    region, relative, recipe = _region(path, heard)
    match = recipe.match(relative, found.op) if recipe is not None else None
    if match is not None:
        used.setdefault(region, set()).add(match[0])
    if known is not None and not known.policy.is_identity:
        return _quantized_row(found, dataclasses.replace(known, path=path))
    row = Row(path, found.op, found.shapes, found.times, found.times * found.flops)
    if found.marked:
        why = "quantized in a function that was traced before this report"
        return dataclasses.replace(row, formats=("?",) * 6, how="emulated", why=why)
    if recipe is None:
        return dataclasses.replace(row, why="no recipe covers it")
    if known is not None and known.rule:
        return dataclasses.replace(row, why=known.rule)
    if match is None:
        return dataclasses.replace(row, why=f"no rule of {recipe.name!r} matches")
    if match[1].policy.is_identity:
        return dataclasses.replace(row, why=f"high precision by rule {str(match[1])!r}")
    return _missed_row(row, found, match[1])


def _missed_row(row: Row, found: Found, rule: Rule) -> Row:
    """The row of what a rule asks for and nobody has quantized; integers are as they should be."""
    whole = [dtype for dtype in found.dtypes if not jnp.issubdtype(dtype, jnp.inexact)]
    if len(whole) == 2:
        return dataclasses.replace(row, why="integers, which are exact as they are")
    if whole:
        help = f"one operand is {whole[0]}: convert it to floats"
    else:
        help = f"written by hand: call qjax.{found.op} with a policy there, or quantize the "
        help += "function that applies the model"
    why = f"asked by rule {str(rule)!r}, but {help}"
    return dataclasses.replace(row, why=why, missed=True)


def _quantized_row(found: Found, known: Contraction) -> Row:
    again = rounded(known.policy)
    quantizers = {**known.policy.quantizers(), **again}.values()
    return Row(
        path=known.path,
        op=known.op,
        shapes=known.shapes,
        times=found.times,
        flops=found.times * known.labels.flops(*known.shapes),
        formats=tuple(FLOAT if q is None else stored_name(q) for q in quantizers),
        bits=tuple(None if q is None else stored_bits(q) for q in quantizers),
        how=_how(known),
        why=f"rule {known.rule!r}" if known.rule else "policy given in the code",
        saved=tuple(f"{leg}.{operand}" for leg, operand in again),
        packed=tuple(n for n in ("lhs", "rhs") if isinstance(getattr(known.policy.fwd, n), Stored)),
    )


def _how(known: Contraction) -> str:
    """How the legs are carried out, where they are quantized at all."""
    asked: list[tuple[Leg, Gemm]] = [(leg, getattr(known.policy, leg)) for leg in LEGS]
    ways = []
    for leg, gemm in asked:
        if not gemm.is_identity:
            way, why = choose(known.policy.implementation, gemm, known.labels, leg, known.shapes)
            ways.append(f"{way} ({why})" if why else str(way))
    parts = [" / ".join(dict.fromkeys(ways))]
    for name in ("transform", "multiplier", "accumulator", "sampling"):
        chosen = [(leg, getattr(gemm, name)) for leg, gemm in asked]
        parts += [f"{leg} {name} {part!r}" for leg, part in chosen if part is not None]
    results = [(leg, gemm.result) for leg, gemm in asked]
    parts += [f"{leg} result {stored_name(part)}" for leg, part in results if part is not None]
    if known.policy.residuals not in (None, "float"):
        parts.append(f"residuals {known.policy.residuals}")
    if known.policy.clip:
        parts.append("saturated gradients zero")
    return "; ".join(parts)


def _region(path: str, heard: Heard) -> tuple[str, str, Recipe | None]:
    """The innermost quantized part of the model around `path`, and the path within it."""
    inside = [
        (region, recipe)
        for region, recipe in heard.regions
        if region == "" or path == region or path.startswith(region + "/")
    ]
    if not inside:
        return "", path, None
    region, recipe = max(inside, key=lambda pair: len(pair[0]))
    return region, path[len(region) :].lstrip("/"), recipe
