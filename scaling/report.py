"""A fit as a Markdown report: the law, its parameters, how good it is, and every doubt.

Meant to be pasted into a lab notebook or cited: it names the data by hash and the versions.
"""

import inspect
import math
from typing import Any

from scaling.fitting.result import FitResult
from scaling.storage import versions


def report(fit: FitResult, level: float = 0.95, held_out: dict[str, Any] | None = None) -> str:
    """Returns a report.

    Args:
        fit: the fit.
        level: coverage of the intervals.
        held_out: what is known about rows that were held out: "condition", "n" and "rms_log".

    Returns:
        Markdown text, ending in a newline.
    """
    ds = fit.problem.ds
    lines = [
        f"# {fit.law.name} fitted to {ds.source or 'a table'}",
        "",
        fit.law.doc,
        *([f"Source of the law: {fit.law.source}."] if fit.law.source else []),
        "",
        *parameters(fit, level),
        *derived(fit, level),
        "",
        *quality(fit),
    ]
    if held_out:
        lines.append(
            f"- held out ({held_out['condition']}): {held_out['n']} rows, RMS of log residuals "
            f"{held_out['rms_log']:.5f}"
        )
    lines += ["", "## Doubts", ""]
    lines += [f"- {w}" for w in fit.warnings] or ["None found."]
    lines += ["", "## Provenance", "", f"- rows: SHA-256 {ds.hash}"]
    lines += [f"- {name} {version}" for name, version in versions().items()]
    return "\n".join(lines) + "\n"


def parameters(fit: FitResult, level: float) -> list[str]:
    """Returns the table of parameters, held and tied ones said to be so."""
    how = "bootstrap" if fit.draws is not None else "delta method"
    intervals = fit.ci(level)
    coords = fit.problem.coords
    lines = [f"| parameter | value | {level:.0%} ({how}) | meaning |", "|---|---:|---:|---|"]
    for param in fit.law.params:
        low, high = intervals[param.name]
        span = f"{low:.5g} to {high:.5g}"
        if param.name in coords.held:
            span = "held"
        elif param.name in coords.followers:
            span = f"tied to {coords.followers[param.name]}"
        lines.append(f"| {param.name} | {fit.params[param.name]:.6g} | {span} | {param.doc} |")
    return lines


def derived(fit: FitResult, level: float) -> list[str]:
    """Returns the table of the quantities that follow from the parameters alone."""
    alone = [
        name
        for name, function in fit.law.derived.items()
        if len(inspect.signature(function).parameters) == 1
    ]
    if not alone:
        return []
    lines = ["", f"| follows | value | {level:.0%} |", "|---|---:|---:|"]
    for name in alone:
        value, low, high = fit.derived(name, level)
        lines.append(f"| {name} | {value:.5g} | {low:.5g} to {high:.5g} |")
    return lines


def quality(fit: FitResult) -> list[str]:
    """Returns what happened in the fit, one line each."""
    objective = fit.problem.objective
    threshold = f", threshold {objective.delta:g}" if math.isfinite(objective.threshold) else ""
    state = "converged" if fit.converged else "did not converge"
    draws = f"; {len(fit.draws)} bootstrap draws" if fit.draws is not None else ""
    return [
        f"- {fit.n} rows, {len(fit.free)} free parameters, {len(fit.dropped)} rows left out",
        f"- objective {objective.name}{threshold}: {fit.objective:.10g}, {state}",
        f"- {fit.agreeing} of {len(fit.starts)} starts agree to 1e-6 of the objective{draws}",
        f"- RMS of log residuals {fit.rms:.5f}",
    ]
