"""Looks at a finished fit and says what to doubt: bounds, identifiability, starts, outliers."""

from typing import TYPE_CHECKING

import numpy as np

from scaling.findings import Finding
from scaling.fitting.objectives import Objective
from scaling.fitting.polish import End, polish
from scaling.tables import design, identifiability
from scaling.uncertainty.covariance import covariance, uneven_errors

if TYPE_CHECKING:
    from scaling.fitting.result import FitResult

#: Standard error of a logarithm (or of an exponent relative to itself) that says nothing is known.
_UNKNOWN = 1.0
#: Robust standard deviations beyond which a row is reported as an outlier.
_OUTLIER = 6.0
#: Ratio of standard errors above which noise is called uneven.
_UNEVEN = 1.35


def diagnose(fit: "FitResult", ends: list[End]) -> list[Finding]:
    """Returns every finding about a fit, worst first.

    Args:
        fit: the fit.
        ends: where its starts ended, best first.
    """
    ds, law = fit.problem.ds, fit.law
    found = design.levels(ds, law) + design.collinearity(ds, law) + design.repeats(ds, law)
    found += design.units(ds, law) + design.schedules(ds)
    found += _search(fit, ends) + _bounds(fit) + _identified(fit) + _capacity(fit)
    found += _outliers(fit) + _uneven(fit) + _disagreement(fit) + _dropped(fit)
    return sorted(found, key=lambda f: ("error", "warning", "info").index(f.severity))


def _search(fit: "FitResult", ends: list[End]) -> list[Finding]:
    found = []
    best = ends[0]
    if not best.converged:
        message = (
            f"The best start used {best.evaluations} evaluations without meeting a tolerance; "
            "the parameters are not at a minimum."
        )
        found.append(Finding(code="no_convergence", severity="error", message=message))
    if best.moved < 1e-9 and best.gradient > 1e-3 and len(fit.u) and fit.rms > 1e-9:
        message = "The optimizer returned its start; the result is the start, not a fit."
        found.append(Finding(code="start_not_moved", severity="error", message=message))
    rivals = [
        e
        for e in ends[1:]
        if e.objective < best.objective * 1.01 and np.abs(e.u - best.u).max() > 0.05
    ]
    if rivals:
        message = (
            f"{len(rivals)} start(s) ended within 1 % of the best objective at other parameters; "
            "several answers fit almost equally well."
        )
        details = {"objectives": [e.objective for e in ends]}
        found.append(
            Finding(code="multiple_optima", severity="warning", message=message, details=details)
        )
    return found


def _bounds(fit: "FitResult") -> list[Finding]:
    coords = fit.problem.coords
    lo, hi = coords.limits
    near = 1e-6 * np.minimum(hi - lo, 1.0)
    found = []
    for j, name in enumerate(coords.free):
        side = "lower" if fit.u[j] <= lo[j] + near[j] else "upper"
        if lo[j] + near[j] < fit.u[j] < hi[j] - near[j]:
            continue
        found.append(
            Finding(
                code="parameter_at_bound",
                severity="warning",
                message=f"{name} = {fit.params[name]:.4g} ended on its {side} bound; the law wants "
                "it beyond, or the data do not need it.",
                details={"parameter": name, "side": side},
            )
        )
    return found


def _identified(fit: "FitResult") -> list[Finding]:
    """Parameters whose standard error covers their whole plausible range."""
    coords = fit.problem.coords
    cov = fit.covariance
    errors = cov.errors
    loose = []
    for j, name in enumerate(coords.free):
        as_log = fit.law.param(name).log or name in coords.centered
        size = 1.0 if as_log else max(abs(fit.u[j]), 1e-3)
        at_zero = name in coords.centered and fit.u[j] < np.log(1e-6 * np.median(np.abs(coords.y)))
        if errors[j] > _UNKNOWN * size or at_zero:
            loose.append(name)
    found = []
    if loose:
        found.append(
            Finding(
                code="not_identified",
                severity="error",
                message=f"The data do not determine {', '.join(loose)}: an interval would cover "
                "its whole range. Fix it, widen the design, or choose a smaller law.",
                details={"parameters": loose},
            )
        )
    weak = identifiability.weak_direction(coords, cov)
    return found + [f for f in weak if not set(f.details["parameters"]) <= set(loose)]


def _capacity(fit: "FitResult") -> list[Finding]:
    above = [n for n in fit.free if n.startswith("eff") and fit.params[n] > 1]
    if not above:
        return []
    values = ", ".join(f"{n} = {fit.params[n]:.4g}" for n in above)
    return [
        Finding(
            code="eff_above_one",
            severity="warning",
            message=f"{values}: more than the unquantized format. Extra tuning of those runs, or "
            "noise, is more likely than a better representation.",
            details={"parameters": above},
        )
    ]


def _outliers(fit: "FitResult") -> list[Finding]:
    residual = fit.residuals
    scale = 1.4826 * np.median(np.abs(residual))
    far = np.flatnonzero(np.abs(residual) > _OUTLIER * max(scale, 1e-12))
    if not len(far) or scale < 1e-9 or len(far) > 0.2 * len(residual):
        return []
    order = far[np.argsort(-np.abs(residual[far]))]
    lines = [int(fit.problem.ds.lines[i]) for i in order]
    return [
        Finding(
            code="outliers",
            severity="warning",
            message=f"{len(lines)} row(s) lie more than {_OUTLIER:g} robust standard deviations "
            f"off (lines {', '.join(map(str, lines[:10]))}); look at them before trusting a fit "
            "with or without them.",
            details={"lines": lines, "scale": float(scale)},
        )
    ]


def _uneven(fit: "FitResult") -> list[Finding]:
    """Compares common standard errors with those that let noise differ from row to row."""
    coords, objective = fit.problem.coords, fit.problem.objective
    enough = fit.n >= max(100, 10 * len(fit.u))
    if not enough or fit.rms < 1e-9 or fit.problem.weights is not None:
        return []
    ratio = uneven_errors(coords, objective, fit.u) / np.maximum(fit.covariance.errors, 1e-300)
    typical = float(np.median(ratio))
    if typical < _UNEVEN:
        return []
    return [
        Finding(
            code="uneven_noise",
            severity="warning",
            message=f"Noise differs over the table: delta-method intervals are too narrow, by a "
            f"factor of about {typical:.2g}. Take intervals from a bootstrap.",
            details={"factor": typical},
        )
    ]


def _disagreement(fit: "FitResult") -> list[Finding]:
    """Compares a robust fit with least squares from the same optimum."""
    objective = fit.problem.objective
    if objective.name not in ("huber-log", "huber-lin") or not len(fit.u):
        return []
    squares = Objective(name="log-l2" if objective.on_logs else "l2")
    coords, weights = fit.problem.coords, fit.problem.weights
    end = polish(coords, squares, fit.u, weights, tolerance=1e-9)
    errors = np.hypot(fit.covariance.errors, 1e-12)
    other = covariance(coords, squares, end.u, weights).errors
    apart = np.abs(end.u - fit.u) / np.minimum(errors, np.maximum(other, 1e-12))
    names = [n for n, a in zip(coords.free, apart) if a > 2]
    if not names or fit.rms < 1e-9:
        return []
    natural = coords.natural(end.u)
    values = ", ".join(f"{n} {fit.params[n]:.4g} against {float(natural[n]):.4g}" for n in names)
    return [
        Finding(
            code="objective_disagreement",
            severity="warning",
            message=f"Robust and least-squares fits differ by more than two standard errors "
            f"({values}); outliers or misfit decide the answer. Report both.",
            details={n: float(natural[n]) for n in names},
        )
    ]


def _dropped(fit: "FitResult") -> list[Finding]:
    if not fit.dropped:
        return []
    shown = "; ".join(f"line {line}: {why}" for line, why in fit.dropped[:5])
    return [
        Finding(
            code="dropped_rows",
            severity="info",
            message=f"{len(fit.dropped)} row(s) were left out ({shown}).",
            details={"rows": [list(row) for row in fit.dropped]},
        )
    ]
