"""The commands that use a fit: predict, plan, plot. Published constants serve as published:NAME."""

import argparse
import csv
import io
import sys
from typing import Any

import numpy as np

from scaling.cli.arguments import find_fit, interval, number, numbers, pairs, tell, whole


def add(commands: Any) -> None:
    """Adds the commands to the parser."""
    _add_predict(commands)
    _add_plan(commands)
    _add_plot(commands)


def _add_fit(parser: argparse.ArgumentParser, many: bool = False) -> None:
    more: dict[str, Any] = {"nargs": "+"} if many else {}
    text = "a saved fit (path), or published:NAME"
    parser.add_argument("fit", help=text + (", several for capacity" if many else ""), **more)


def _add_predict(commands: Any) -> None:
    parser = commands.add_parser("predict", help="predict the loss of runs in a table")
    _add_fit(parser)
    add = parser.add_argument
    add("points", help="table with the law's predictors (path)")
    add("--map", nargs="+", default=[], metavar="NAME=COLUMN[:UNIT]", help="as for fit")
    add("--ci", type=float, help="coverage of an interval (default: none)")
    add("--kind", default="mean", choices=("mean", "new_run"), help="new_run adds the runs' noise")
    add("-o", "--out", help="write the predictions as CSV (path; default: stdout)")
    parser.set_defaults(run=predict)


def predict(options: argparse.Namespace) -> int:
    """Prints or writes the predictors with predictions and intervals, as CSV."""
    from scaling import files
    from scaling.fitting.result import FitResult
    from scaling.planning.limits import outside
    from scaling.tables.dataset import Dataset

    if options.out:
        files.check(options.out)
    fitted = find_fit(options.fit)
    law = fitted.law
    points = Dataset.read(options.points, map=pairs(options.map, "--map")).predictors(law)
    for name, column in points.items():
        if name not in law.labels and not np.isfinite(column).all():
            raise ValueError(f"{options.points}: {name} has no value in some row.")
    columns: dict[str, Any] = dict(points)
    if options.ci is None:
        columns[law.target] = np.asarray(law.predict(fitted.params, points))
    elif isinstance(fitted, FitResult):
        names = (law.target, "lower", "upper")
        columns |= dict(zip(names, fitted.predict(points, ci=options.ci, kind=options.kind)))
    else:
        raise ValueError("Published constants have no intervals; leave --ci away, or fit runs.")
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*(np.asarray(v).tolist() for v in columns.values())))
    if options.out:
        files.write_text(options.out, out.getvalue())
    else:
        print(out.getvalue(), end="")
    tell(outside(fitted, points))
    return 0


def _add_plan(commands: Any) -> None:
    parser = commands.add_parser("plan", help="size, data and format for a budget")
    _add_fit(parser)
    add = parser.add_argument
    add("--compute", required=True, help="budget (FLOP of 16-bit products)")
    add("--cost", default="bits", metavar="MODEL",
        help="flops16, bits (= sun = kumar) or a CSV of format,throughput")  # fmt: skip
    add("--formats", nargs="+", metavar="NAME", help="formats to choose among (default: the law's)")
    add("--fixed-n", metavar="N", help="hold the size (parameters)")
    add("--limits", nargs="+", default=[], metavar="NAME=LOW:HIGH",
        help="limits on N, D (counts) and memory (bytes); an empty side is open")  # fmt: skip
    add("--inference-tokens", default="0", help="tokens to be served (count; default: 0)")
    add("--serve-bits", help="bits of the served parameters (default: those of training)")
    add("--set", nargs="+", default=[], metavar="NAME=VALUE",
        help="predictors that keep a value whatever the format, as in P_a=16")  # fmt: skip
    add("--draws", type=whole(0), default=400, help="draws of the parameters (count; default: 400)")
    add("--level", type=float, default=0.95, help="coverage of intervals (default: 0.95)")
    add("--seed", type=whole(0), default=0, help="seed of the draws (default: 0)")
    add("--out", help="write the plan as Markdown (path)")
    parser.set_defaults(run=plan)


def plan(options: argparse.Namespace) -> int:
    """Prints the plan, best format first."""
    from scaling import files
    from scaling.planning import plan as make_plan

    if options.out:
        files.check(options.out)
    limits = {k: interval(v, k) for k, v in pairs(options.limits, "--limits").items()}
    if options.fixed_n is not None:
        limits["N"] = interval(options.fixed_n, "--fixed-n")
    serve = options.serve_bits
    found = make_plan(
        find_fit(options.fit),
        number(options.compute, "--compute"),
        cost=options.cost,
        formats=options.formats,
        constraints=limits,
        inference_tokens=number(options.inference_tokens, "--inference-tokens"),
        serve_bits=None if serve is None else number(serve, "--serve-bits"),
        held=numbers(options.set, "--set"),
        draws=options.draws,
        level=options.level,
        seed=options.seed,
    )
    text = found.to_markdown() + "\n"
    if options.out:
        files.write_text(options.out, text)
    print(text, end="")
    return 0


def _add_plot(commands: Any) -> None:
    parser = commands.add_parser("plot", help="draw a picture of a fit")
    _add_fit(parser, many=True)
    add = parser.add_argument
    add("--kind", required=True, help="iso-loss, pareto, capacity, extrapolation, residuals, "
        "profile, isoflop, precision-vs-compute or data")  # fmt: skip
    add("-o", "--out", required=True, help="PNG, SVG or PDF (path)")
    add("--formats", nargs="+", metavar="NAME", help="formats to draw")
    add(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help="predictors to hold, as in B=128"
    )
    add("--axis", choices=("N", "D"), help="horizontal axis of iso-loss (default: N)")
    add("--at", nargs="+", default=[], metavar="N=..|D=..", help="size or data of the picture")
    add("--compute", nargs="+", metavar="C", help="budgets (FLOP)")
    parser.set_defaults(run=plot)


def plot(options: argparse.Namespace) -> int:
    """Draws a picture into a file."""
    from scaling import files
    from scaling.plotting import plot as draw

    files.check(options.out)
    if len(options.fit) > 1 and options.kind != "capacity":
        raise ValueError(f"A {options.kind} picture shows one fit, got {len(options.fit)}.")
    fits = [find_fit(name) for name in options.fit]
    given: dict[str, Any] = numbers(options.at, "--at")
    if options.set:
        given["held"] = numbers(options.set, "--set")
    if options.formats:
        one = options.kind == "isoflop"
        given |= {"format": options.formats[0]} if one else {"formats": options.formats}
    if options.axis:
        given["x"] = options.axis
    if options.compute:
        given["compute"] = [number(c, "--compute") for c in options.compute]
    if options.kind == "extrapolation":
        given |= _held_out_rows(options.fit[0])
    draw(fits if options.kind == "capacity" else fits[0], options.kind, options.out, **given)
    print(f"wrote {options.out}", file=sys.stderr)
    return 0


def _held_out_rows(path: str) -> dict[str, Any]:
    """Returns the rows that a saved fit kept out, for the picture that shows them."""
    from scaling.storage import read
    from scaling.tables.dataset import Dataset

    if path.startswith("published:"):
        raise ValueError("An extrapolation picture needs a fit of runs, not published constants.")
    entry = read(path).get("held_out")
    return {} if entry is None else {"held_out": Dataset(entry["columns"], lines=entry["lines"])}
