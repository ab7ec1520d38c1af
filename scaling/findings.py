"""Findings: what a check or a fit has to say beyond numbers, as data.

A finding has a code that programs can test for, a severity, and a sentence for people. The command
line turns findings of severity "error" into a nonzero exit code; the library never prints them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

#: Every code, with what it means.
CODES = {
    "parameter_at_bound": "a parameter ended on its bound",
    "not_identified": "the data do not determine a parameter",
    "collinear_design": "predictors move together, so that their effects cannot be told apart",
    "too_few_levels": "a predictor takes too few distinct values",
    "start_not_moved": "the optimizer returned its start",
    "multiple_optima": "different starts end in different, almost equally good places",
    "no_convergence": "the optimizer ran out of evaluations",
    "objective_disagreement": "robust and least-squares estimates differ by more than noise",
    "eff_above_one": "a compressed format acts as more parameters than the unquantized one",
    "extrapolation": "a prediction lies more than a decade outside the fitted range",
    "negative_delta": "a degradation is not positive, so that its logarithm does not exist",
    "mixed_schedules": "runs of several schedules, or unfinished ones, are fitted together",
    "units_suspect": "a column looks as if it were in thousands, millions or billions",
    "duplicates": "rows repeat",
    "uneven_noise": "noise differs over the table, so that delta-method intervals are too narrow",
    "outliers": "a few rows are far from the fitted law",
    "dropped_rows": "rows were left out",
}
SEVERITIES = ("info", "warning", "error")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing worth saying.

    Args:
        code: a key of ``CODES``.
        severity: "info", "warning" or "error".
        message: a sentence: what, where, and what to do.
        details: numbers and names behind the sentence, for programs.
    """

    code: str
    severity: str
    message: str
    details: dict[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self):
        if self.code not in CODES:
            raise ValueError(f"code must be one of {sorted(CODES)}, got {self.code!r}.")
        if self.severity not in SEVERITIES:
            raise ValueError(f"severity must be one of {SEVERITIES}, got {self.severity!r}.")

    def __str__(self) -> str:
        return f"[{self.severity}] {self.code}: {self.message}"


def worst(findings: Iterable[Finding]) -> str | None:
    """Returns the highest severity among ``findings``, or None where there are none."""
    ranks = [SEVERITIES.index(f.severity) for f in findings]
    return SEVERITIES[max(ranks)] if ranks else None
