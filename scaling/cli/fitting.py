"""The commands that look at runs: check, fit, compare, isoflop."""

import argparse
import sys
from typing import Any

from scaling.cli.arguments import (
    add_table,
    find_law,
    interval,
    meets,
    number,
    numbers,
    pairs,
    read_table,
    whole,
)


def add(commands: Any) -> None:
    """Adds the commands to the parser."""
    _add_check(commands)
    _add_fit(commands)
    _add_compare(commands)
    _add_isoflop(commands)


def _add_check(commands: Any) -> None:
    parser = commands.add_parser("check", help="judge a table for a law before fitting it")
    add_table(parser)
    parser.add_argument("--law", required=True, help="name of the law, see `scaling laws`")
    parser.set_defaults(run=check)


def check(options: argparse.Namespace) -> int:
    """Prints what the table can and cannot determine; 2 where an error is among the findings."""
    from scaling.findings import worst

    law = find_law(options.law)
    ds = read_table(options, law)
    found = ds.check(law)
    print(f"{len(ds)} rows of {options.table} for {law.name}: {law.doc}")
    for name, column in ds.predictors(law).items():
        levels = len(set(column.tolist()))
        span = "" if name in law.labels else f", {column.min():.4g} to {column.max():.4g}"
        print(f"- {name}: {levels} distinct value(s){span}")
    print(*(found or ["Nothing to object to."]), sep="\n")
    return 2 if worst(found) == "error" else 0


def _add_fit(commands: Any) -> None:
    parser = commands.add_parser("fit", help="fit a law to a table")
    add_table(parser)
    add = parser.add_argument
    add("--law", required=True, help="name, with options behind colons: kumar_equal:factors=2")
    add("--objective", help="huber-log, log-l2, l2, huber-lin or mae-asym (default: the law's own)")
    add("--delta", type=float, default=1e-3, help="threshold of Huber (default: 0.001)")
    add("--method", default="vp", choices=("vp", "grid"), help="grid: the literature's 4500 starts")
    add("--fix", nargs="+", default=[], metavar="PARAM=VALUE", help="parameters to hold")
    add("--tie", action="append", default=[], metavar="A,B", help="parameters with one value")
    add("--bounds", nargs="+", default=[], metavar="PARAM=LOW:HIGH", help="natural bounds")
    add("--weights", metavar="COLUMN", help="weights of the rows")
    add("--group", metavar="COLUMN", help="rows that the bootstrap draws together")
    add("--bootstrap", type=whole(0), default=0, metavar="R", help="draws (count; default: 0)")
    add("--seed", type=whole(0), default=0, help="seed of the bootstrap (default: 0)")
    add("--workers", type=whole(1), help="processes of the bootstrap (default: one per core)")
    add("--level", type=float, default=0.95, help="coverage of intervals (default: 0.95)")
    add("--holdout", metavar="CONDITION", help="rows to keep out, as in 'N>5e8'")
    add("-o", "--out", help="write the fit as JSON (path)")
    add("--report", help="write the report as Markdown (path)")
    parser.set_defaults(run=fit)


def fit(options: argparse.Namespace) -> int:
    """Fits, prints the report, writes what is asked; the exit code says how far to trust it."""
    from scaling import files
    from scaling import fit as fit_law
    from scaling.report import report
    from scaling.storage import save

    for path in filter(None, (options.out, options.report)):
        files.check(path)
    law = find_law(options.law)
    table = read_table(options, law)
    test = None if options.holdout is None else meets(table, options.holdout, "--holdout")
    result = fit_law(
        table if test is None else table.take(~test),
        law,
        objective=options.objective,
        delta=options.delta,
        method=options.method,
        fixed=numbers(options.fix, "--fix"),
        tie=[tuple(group.split(",")) for group in options.tie],
        bounds={k: interval(v, k) for k, v in pairs(options.bounds, "--bounds").items()},
        weights=options.weights,
        group=options.group,
        bootstrap=options.bootstrap,
        seed=options.seed,
        workers=options.workers,
        on_bad="drop" if options.drop_bad else "raise",
        progress=sys.stderr.isatty(),
    )
    extra = {} if test is None else {"held_out": _held_out(result, table.take(test), options)}
    text = report(result, options.level, extra.get("held_out"))
    if options.out:
        save(result, options.out, options.level, **extra)
    if options.report:
        files.write_text(options.report, text)
    print(text, end="")
    return exit_code(result)


def exit_code(result: Any) -> int:
    """Returns 3 for a fit that did not converge, 2 for an error among its findings, else 0."""
    from scaling.findings import worst

    if not result.converged:
        return 3
    return 2 if worst(result.warnings) == "error" else 0


def _held_out(result: Any, rows: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Returns what the fit makes of the rows that it has not seen."""
    import numpy as np

    on_bad = "drop" if options.drop_bad else "raise"
    rows = rows.complete(result.law, on_bad)
    residual = np.log(result.predict(rows)) - np.log(rows.target(result.law))
    return {
        "condition": options.holdout,
        "n": len(rows),
        "rms_log": float(np.sqrt((residual**2).mean())),
        "mean_log_error": float(np.abs(residual).mean()),
        "lines": rows.lines,
        "columns": {**rows.predictors(result.law), result.law.target: rows.target(result.law)},
    }


def _add_compare(commands: Any) -> None:
    parser = commands.add_parser("compare", help="several laws, also on runs they have not seen")
    add_table(parser)
    add = parser.add_argument
    add("--laws", required=True, nargs="+", metavar="NAME", help="laws, by spaces or commas")
    add("--cv", nargs="+", default=[], metavar="SPLIT",
        help="holdout:N:max, holdout:N>5e8, group:P or kfold:5; the first one ranks")  # fmt: skip
    add("--objective", default="log-l2", help="what is minimized (default: log-l2)")
    add("--seed", type=whole(0), default=0, help="seed of random folds (default: 0)")
    add("--out", help="write the table as Markdown (path)")
    parser.set_defaults(run=compare)


def compare(options: argparse.Namespace) -> int:
    """Prints the comparison, best law first; 2 where a law could not be fitted."""
    from scaling import compare as compare_laws
    from scaling import files

    if options.out:
        files.check(options.out)
    chosen = [find_law(name) for word in options.laws for name in word.split(",") if name]
    table = read_table(options, chosen[0] if len(chosen) == 1 else None)
    on_bad = "drop" if options.drop_bad else "raise"
    found = compare_laws(
        table, chosen, options.cv, objective=options.objective, seed=options.seed, on_bad=on_bad
    )
    text = found.to_markdown() + "\n"
    if options.out:
        files.write_text(options.out, text)
    print(text, end="")
    return 2 if any(row.fit is None for row in found.rows) else 0


def _add_isoflop(commands: Any) -> None:
    parser = commands.add_parser("isoflop", help="approach 2: parabolas at equal compute")
    add_table(parser)
    add = parser.add_argument
    add("--budget", nargs="+", default=[], metavar="C", help="budgets to plan for (FLOP)")
    add("--window", type=float, help="keep runs within this factor of the best D (default: all)")
    parser.set_defaults(run=isoflop)


def isoflop(options: argparse.Namespace) -> int:
    """Prints the minima, the line through them, and how biased the method is."""
    from scaling.isoflop import isoflop as approach_2

    if options.window is not None and not options.window > 1:
        raise ValueError(f"--window must be above 1, got {options.window:g}.")
    found = approach_2(read_table(options), options.window)
    print("| C (FLOP) | runs | D_opt | N_opt |\n|---:|---:|---:|---:|")
    for curve in found.curves:
        size = curve.C / (6 * curve.D_opt)
        print(f"| {curve.C:.3g} | {len(curve.D)} | {curve.D_opt:.4g} | {size:.4g} |")
    print(f"\nD_opt ~ C^{found.exponent:.4f}, N_opt ~ C^{1 - found.exponent:.4f}")
    for text in options.budget:
        c = number(text, "--budget")
        if c <= 0:
            raise ValueError(f"--budget must be positive, got {text}.")
        print(f"C = {c:.3g}: N = {found.size(c):.4g}, D = {found.data(c):.4g}")
    print(found.note, file=sys.stderr)
    return 0
