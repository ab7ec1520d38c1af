"""The commands that need no runs: laws, published, simulate."""

import argparse
import csv
import inspect
import io
from collections.abc import Callable
from typing import Any

import numpy as np

from scaling import laws as registry
from scaling.cli.arguments import ALIASES, find_law, number, numbers, whole
from scaling.laws import Law
from scaling.laws.published import Published

#: What a published quantity may depend on.
_POINTS = ("N", "D", "C", "P", "E", "M", "B", "P_w", "P_a", "P_kv", "P_post", "S")


def add(commands: Any) -> None:
    """Adds the commands to the parser."""
    _add_laws(commands)
    _add_published(commands)
    _add_simulate(commands)


def _add_laws(commands: Any) -> None:
    parser = commands.add_parser("laws", help="list the laws, or show one")
    parser.add_argument("show", nargs="*", help="`show NAME` explains one law")
    parser.set_defaults(run=laws)


def laws(options: argparse.Namespace) -> int:
    """Lists every law with its predictors, or explains one."""
    words = options.show
    if not words:
        for name in registry.names():
            law = registry.get(name)
            print(f"{name:22} {law.target}({', '.join(law.predictors)})  {law.source}")
        return 0
    if words[0] != "show" or len(words) != 2:
        raise ValueError(f"Write `scaling laws` or `scaling laws show NAME`, got {words}.")
    print(explain(find_law(words[1])))
    return 0


def explain(law: Law) -> str:
    """Returns a law in words: formula, predictors, parameters, quantities, constants."""
    lines = [law.name, law.doc, f"source: {law.source}", f"predicts: {law.target}"]
    lines.append(f"reads: {', '.join(law.predictors)}")
    if law.options:
        shown = ", ".join(f"{k}={v}" for k, v in law.options)
        lines.append(f"options: {shown}")
    lines.append("parameters:" + ("" if law.params else " one or more per label of the table"))
    for p in law.params:
        held = "" if p.fixed is None else f" (held at {p.fixed:g})"
        lines.append(f"  {p.name:12} {p.doc}{held}")
    for name, function in law.derived.items():
        wanted = ", ".join(list(inspect.signature(function).parameters)[1:])
        lines.append(f"derives: {name}({wanted})")
    sets = [n for n in registry.published_names() if registry.published(n).family == law.name]
    if sets:
        lines.append(f"published constants: {', '.join(sets)}")
    short = [k for k, v in ALIASES.items() if v == law.name]
    return "\n".join(lines + ([f"also called: {', '.join(short)}"] if short else []))


def _add_published(commands: Any) -> None:
    parser = commands.add_parser("published", help="published constants and what follows from them")
    add = parser.add_argument
    add("name", nargs="?", help="name of the constants; all names without")
    add("--quantity", metavar="NAME", help="what to compute: a derived quantity, or loss")
    add("--fmt", help="a format, which stands for E, M, B and bits")
    for name in _POINTS:
        add(f"--{name}", dest=f"at_{name}", metavar="NUMBER", help=f"value of {name}")
    parser.set_defaults(run=published)


def published(options: argparse.Namespace) -> int:
    """Prints constants with source and units, or one quantity computed from them."""
    if options.name is None:
        for name in registry.published_names():
            entry = registry.published(name)
            print(f"{name:24} {entry.family:22} {entry.source}")
        return 0
    entry = registry.published(options.name)
    given = _given(options, entry.law)
    if options.quantity is None:
        if given:
            raise ValueError(
                f"{', '.join(given)} given, and nothing to compute from them; add --quantity, one "
                f"of {', '.join(['loss', *entry.law.derived])}."
            )
        print(f"{entry.name}: {entry.law.doc}")
        print(f"source: {entry.source}\nunits: {entry.units}\nnotes: {entry.notes or '-'}")
        for name, value in entry.params.items():
            print(f"  {name:12} {value:.10g}")
        print(f"quantities: {', '.join(['loss', *entry.law.derived])}")
        return 0
    value = _quantity(entry, options.quantity, given)
    shown = value if isinstance(value, tuple) else np.ravel(value)
    print(*(f"{float(v):.6g}" for v in shown))
    return 0


def _given(options: argparse.Namespace, law: Law) -> dict[str, Any]:
    """Returns the values that were given, those that a format stands for included."""
    given: dict[str, Any] = {}
    if options.fmt is not None and "fmt" in law.predictors:
        given["fmt"] = [options.fmt]
    elif options.fmt is not None:
        from scaling.tables.formats import parse_format

        fmt = parse_format(options.fmt)
        found = {"E": fmt.E, "M": fmt.M, "P": fmt.bits, "B": fmt.block}
        given = {k: float(v) for k, v in found.items() if v is not None and v == v}
    for name in _POINTS:
        text = getattr(options, f"at_{name}")
        if text is not None:
            given[name] = number(text, f"--{name}")
            if given[name] <= 0 and name not in ("E", "M", "S"):
                raise ValueError(f"--{name} must be positive, got {text}.")
    return given


def _quantity(entry: Published, name: str, given: dict[str, Any]) -> Any:
    """Computes a quantity; ValueError names what is missing or superfluous."""
    law = entry.law
    if name == "loss" or name == law.target:
        missing = [p for p in law.predictors if p not in given]
        if missing:
            raise ValueError(f"{name} of {law.name} needs {', '.join(law.predictors)}; give "
                             f"{', '.join(f'--{p}' for p in missing)}.")  # fmt: skip
        return law.predict(entry.params, given)
    if name not in law.derived:
        raise ValueError(f"{entry.name} gives {', '.join(['loss', *law.derived])}, not {name!r}.")
    return _call(law.derived[name], name, entry, given)


def _call(function: Callable[..., Any], name: str, entry: Published, given: dict[str, Any]):
    known = dict(list(inspect.signature(function).parameters.items())[1:])
    if any(p.kind is p.VAR_KEYWORD for p in known.values()):
        return function(entry.params, **given)
    needed = [k for k, p in known.items() if p.default is p.empty]
    missing = [k for k in needed if k not in given]
    if missing:
        raise ValueError(f"{name} needs {', '.join(needed)}; give "
                         f"{', '.join(f'--{k}' for k in missing)}.")  # fmt: skip
    values = {k: int(v) if known[k].annotation is int else v
              for k, v in given.items() if k in known}  # fmt: skip
    return function(entry.params, **values)


def _add_simulate(commands: Any) -> None:
    parser = commands.add_parser("simulate", help="write a synthetic results table")
    add = parser.add_argument
    add("--law", required=True, help="name of the law, see `scaling laws`")
    add("--constants", metavar="NAME", help="published constants (default: typical ones)")
    add("--params", nargs="+", default=[], metavar="PARAM=VALUE", help="parameters to change")
    add("--design", default="default", help="table of predictors (path), or `default`")
    add("--drop-bad", action="store_true", help="leave rows of the design out that have no value")
    add("--noise", type=float, default=0.0, help="standard deviation of the log loss (default: 0)")
    add("--seed", type=whole(0), default=0, help="seed of the noise (default: 0)")
    add("-o", "--out", help="write the table as CSV (path; default: stdout)")
    parser.set_defaults(run=simulate)


def simulate(options: argparse.Namespace) -> int:
    """Writes or prints a table that a law predicts, with noise."""
    from scaling import files
    from scaling import simulate as room
    from scaling.fitting.options import fixed
    from scaling.tables.dataset import Dataset

    if options.out:
        files.check(options.out)
    law = find_law(options.law)
    constants = registry.published(options.constants).params if options.constants else None
    params = dict(constants or room.typical(law)) | numbers(options.params, "--params")
    for name in set(params) & set(law.names):
        fixed(law, {name: params[name]})
    design = None
    if options.design != "default":
        read = Dataset.read(options.design, on_bad="drop" if options.drop_bad else "raise")
        design = read.predictors(law)
    table = room.simulate(law, params, design, noise=options.noise, seed=options.seed)
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table.names)
    writer.writerows(zip(*(table[name].tolist() for name in table.names)))
    if options.out:
        files.write_text(options.out, out.getvalue())
    else:
        print(out.getvalue(), end="")
    return 0
