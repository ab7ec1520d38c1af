"""Where a plan stops being trustworthy: the fitted range, the critical data, what was assumed."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from scaling.findings import Finding
from scaling.fitting.result import FitResult
from scaling.laws.published import Published
from scaling.planning.candidates import Candidate
from scaling.planning.choices import Choice, count, spoken
from scaling.planning.costs import Cost
from scaling.planning.search import golden

#: Tokens between which a minimum in D is looked for.
_FEWEST, _MOST = 1e3, 1e24


def critical_data(fit: FitResult | Published, candidate: Candidate, N: float) -> float | None:
    """Returns the tokens beyond which more data raise the loss, found on the law itself.

    Args:
        fit: the law with its parameters.
        candidate: the format.
        N: parameters.

    Returns:
        The D of lowest loss, or None where the loss never rises.
    """

    def loss(log_d):
        points = {"N": np.full_like(log_d, N), "D": np.exp(log_d), **candidate.point}
        return np.asarray(fit.law.predict(fit.params, points))

    low, high = np.log([[_FEWEST]]), np.log([[_MOST]])
    log_d, value = golden(loss, low, high, grid=193)
    rises = float(loss(high)[0, 0]) > float(value[0, 0]) * (1 + 1e-9)
    return float(np.exp(log_d[0, 0])) if rises and float(log_d[0, 0]) > float(low[0, 0]) else None


def extrapolations(
    fit: FitResult | Published, best: Choice, chosen: Iterable[Candidate]
) -> list[Finding]:
    """Returns a finding for every predictor with which the best choice leaves the fitted rows."""
    candidate = next(c for c in chosen if c.name == best.format)
    where = {"N": best.N, "D": best.D} | dict(candidate.point)
    return outside(fit, {k: v for k, v in where.items() if k not in fit.law.labels})


def outside(fit: FitResult | Published, points: Mapping[str, Any]) -> list[Finding]:
    """Returns a finding for every predictor that leaves the fitted rows somewhere.

    Args:
        fit: a fit; published constants have no rows, which is what the finding says.
        points: predictors by name, scalars or arrays.
    """
    if isinstance(fit, Published):
        message = (
            f"Published constants ({fit.source}) do not transfer to other data, tokenizers or "
            "recipes; refit at least the unquantized part before you rely on these numbers."
        )
        return [Finding(code="extrapolation", severity="warning", message=message)]
    found = []
    for name in fit.law.predictors:
        if name in points and name not in fit.law.labels:
            values = np.asarray(points[name], float)
            ends = {float(values.min()), float(values.max())}
            found += [f for value in sorted(ends) for f in _outside(fit, name, value)]
    return found


def _outside(fit: FitResult, name: str, value: float) -> list[Finding]:
    seen = np.asarray(fit.problem.coords.x[name], float)
    low, high = float(seen.min()), float(seen.max())
    if low * (1 - 1e-9) <= value <= high * (1 + 1e-9):
        return []
    message = f"{name} = {value:.3g} lies outside of the fitted range {low:.3g} to {high:.3g}"
    severity = "warning"
    if name in ("N", "D"):
        decades = math.log10(value / high) if value > high else math.log10(low / value)
        message += f", by {decades:.1f} decade(s)"
        severity = "warning" if decades > 1 else "info"
    details = {"predictor": name, "value": value, "range": [low, high]}
    return [
        Finding(code="extrapolation", severity=severity, message=message + ".", details=details)
    ]


def doubts_of_fit(fit: FitResult | Published) -> list[Finding]:
    """Returns the fit's own findings of severity "error", which no plan can mend."""
    if isinstance(fit, Published):
        return []
    return [w for w in fit.warnings if w.severity == "error"]


def assumptions(cost: Cost, choices: Sequence[Choice], limits: dict) -> tuple[str, ...]:
    """Returns sentences about what the plan takes for granted and which limits decide it."""
    found, best = [], choices[0]
    equal = [spoken(c.format) for c in choices if math.isclose(c.loss, best.loss, rel_tol=1e-12)]
    if len(equal) > 1:
        found.append(
            f"The law cannot tell {', '.join(equal)} apart; they share the draws in which they are "
            "the best."
        )
    if cost.speed is not None:
        found.append(f"Throughputs relative to BF16 are those of {cost.name}; they are assumed.")
    for name, value in (("N", best.N), ("D", best.D), ("memory", best.memory)):
        low, high = limits.get(name, (None, None))
        if low is not None and low == high:
            found.append(f"{name} is held at {low:.3g}.")
            continue
        for side, limit in zip(("lower", "upper"), (low, high)):
            if limit is not None and value is not None and math.isclose(value, limit, rel_tol=1e-6):
                found.append(f"{name} ends on its {side} limit, {limit:.3g}.")
    if best.D_crit is not None:
        found.append(
            f"More than {count(best.D_crit)} tokens would raise the loss at {count(best.N)} "
            f"parameters in {spoken(best.format)}."
        )
    return tuple(found)
