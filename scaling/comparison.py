"""Which law? Several laws on the same rows, by information criteria and by held-out error.

Criteria compare laws where the data are; held-out errors compare them where they are not, which is
what a plan needs. The table reports both and ranks by the first held-out error if there is one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scaling.fitting.fit import fit
from scaling.fitting.result import FitResult
from scaling.laws import Law, get
from scaling.splits import folds
from scaling.tables.dataset import Dataset


def aicc(fitted: FitResult) -> float:
    """Returns Akaike's criterion with the small-sample correction, on log residuals.

    n log(RSS/n) + 2k + 2k(k+1)/(n-k-1), where k counts the free parameters and the noise.
    Infinite where n <= k + 1.
    """
    n, k = fitted.n, len(fitted.free) + 1
    if n <= k + 1:
        return math.inf
    return n * _log_mean_square(fitted) + 2 * k + 2 * k * (k + 1) / (n - k - 1)


def bic(fitted: FitResult) -> float:
    """Returns Schwarz's criterion on log residuals: n log(RSS/n) + k log n."""
    return fitted.n * _log_mean_square(fitted) + (len(fitted.free) + 1) * math.log(fitted.n)


def likelihood_ratio(small: FitResult, large: FitResult) -> tuple[float, float]:
    """Returns the likelihood ratio of two nested laws and its p-value.

    Valid where ``small`` is a special case of ``large`` in the interior of its parameters, both
    fitted by "log-l2" to the same rows.

    Raises:
        ValueError: the rows or the objective differ, or ``large`` has no more parameters.
    """
    from scipy.special import chdtrc

    extra = len(large.free) - len(small.free)
    if small.problem.ds.hash != large.problem.ds.hash:
        raise ValueError("A likelihood ratio compares two fits of the same rows.")
    if small.problem.objective.name != "log-l2" or large.problem.objective.name != "log-l2":
        raise ValueError("A likelihood ratio needs both fits with objective='log-l2'.")
    if extra < 1:
        raise ValueError(f"The larger law must have more free parameters; it has {extra} more.")
    ratio = small.n * (_log_mean_square(small) - _log_mean_square(large))
    return ratio, float(chdtrc(extra, max(ratio, 0.0)))


def _log_mean_square(fitted: FitResult) -> float:
    return math.log(max(float((fitted.log_residuals**2).mean()), 1e-300))


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """One law in a comparison.

    Args:
        name: the law's name with its options.
        fit: the fit of all rows, or None where it failed.
        aicc: Akaike's criterion, infinite where it failed.
        bic: Schwarz's criterion.
        held_out: root mean square of log residuals on held-out rows, by split; NaN where a fold
            could not be fitted or predicted.
        reasons: why something is missing.
    """

    name: str
    fit: FitResult | None
    aicc: float
    bic: float
    held_out: dict[str, float]
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Laws on the same rows, best first."""

    rows: tuple[Row, ...]
    splits: tuple[str, ...] = field(default=())
    n: int = 0

    def __getitem__(self, name: str) -> Row:
        """Returns a law's row by name."""
        for row in self.rows:
            if row.name == name:
                return row
        raise ValueError(f"The comparison has {[row.name for row in self.rows]}, not {name!r}.")

    @property
    def ranking(self) -> tuple[str, ...]:
        """Names of the laws, best first."""
        return tuple(row.name for row in self.rows)

    def to_markdown(self) -> str:
        """Returns the comparison as a Markdown table, with a line for everything missing."""
        head = ["law", "parameters", "RMS (log loss)", "AICc", "BIC", *self.splits]
        lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
        for row in self.rows:
            cells = [row.name]
            if row.fit is None:
                cells += ["-"] * 4
            else:
                cells += [str(len(row.fit.free)), f"{row.fit.rms:.5f}"]
                cells += [f"{row.aicc:.1f}", f"{row.bic:.1f}"]
            values = [row.held_out.get(s, math.nan) for s in self.splits]
            cells += ["-" if math.isnan(v) else f"{v:.5f}" for v in values]
            lines.append(f"| {' | '.join(cells)} |")
        notes = [f"- {row.name}: {why}" for row in self.rows for why in row.reasons]
        return "\n".join([*lines, *([""] if notes else []), *notes])


def compare(
    ds: Dataset,
    laws: Sequence[str | Law],
    cv: Sequence[str] = (),
    *,
    objective: str = "log-l2",
    seed: int = 0,
    **options: Any,
) -> Comparison:
    """Fits several laws to the same rows and holds runs out.

    Args:
        ds: the table; rows must have the predictors of every law.
        laws: names or laws.
        cv: splits, as in ``scaling.splits``.
        objective: what is minimized; least squares on logs by default, which the criteria assume.
        seed: fixes random folds.
        **options: passed to ``fit`` for every law, where the law has the parameters they name.

    Returns:
        The comparison, ranked by the first split's held-out error, else by AICc.

    Raises:
        ValueError: no laws are given, a name or a split is unknown, or a column is missing.
    """
    if not laws:
        raise ValueError("compare needs at least one law.")
    chosen = [get(law) for law in laws]
    for law in chosen:
        ds = ds.complete(law, options.get("on_bad", "raise"))
    splits = {split: folds(ds, split, seed) for split in cv}
    rows = [_row(ds, law, splits, objective, options) for law in chosen]

    def rank(row: Row) -> tuple[bool, float, float]:
        first = row.held_out.get(cv[0], math.nan) if cv else 0.0
        return (row.fit is None, math.inf if math.isnan(first) else first, row.aicc)

    return Comparison(rows=tuple(sorted(rows, key=rank)), splits=tuple(cv), n=len(ds))


def _fitting(options: dict, law: Law) -> dict:
    """Returns options of ``fit`` without the parameters that a law does not have."""
    out = dict(options)
    for key in ("fixed", "bounds", "start"):
        if out.get(key):
            out[key] = {name: v for name, v in out[key].items() if name in law.names}
    if out.get("tie"):
        tie = out["tie"]
        groups = [tuple(tie)] if isinstance(tie[0], str) else [tuple(g) for g in tie]
        out["tie"] = [g for g in groups if set(g) <= set(law.names)]
    return out


def title(law: Law) -> str:
    """Returns a law's name with the options in which it differs from the registered default."""
    options = {k: v for k, v in law.options if k not in ("labels", "reference", "knots", "levels")}
    default = dict(get(law.name).options) if law.name in _registered() else {}
    changed = {k: v for k, v in options.items() if default.get(k, v) != v}
    inside = ", ".join(f"{k}={v}" for k, v in changed.items())
    return f"{law.name}({inside})" if inside else law.name


def _registered() -> tuple[str, ...]:
    from scaling.laws import names

    return names()


def _row(ds: Dataset, law: Law, splits: dict, objective: str, options: dict) -> Row:
    reasons: list[str] = []
    options = _fitting(options, law)
    try:
        whole = fit(ds, law, objective=objective, **options)
    except ValueError as error:
        nothing = dict.fromkeys(splits, math.nan)
        why = (str(error),)
        return Row(
            name=title(law), fit=None, aicc=math.inf, bic=math.inf, held_out=nothing, reasons=why
        )
    held_out = {}
    for split, parts in splits.items():
        residuals = []
        for fold in parts:
            try:
                train = fit(ds.take(~fold.test), law, objective=objective, **options)
                test = ds.take(fold.test)
                predicted = train.predict(test)
                residuals.append(np.log(predicted) - np.log(test.target(law)))
            except ValueError as error:
                reasons.append(f"{split}, {fold.name}: {error}")
        complete = len(residuals) == len(parts)
        pooled = np.concatenate(residuals) if complete else np.array([math.nan])
        held_out[split] = float(np.sqrt((pooled**2).mean()))
    return Row(
        name=title(law),
        fit=whole,
        aicc=aicc(whole),
        bic=bic(whole),
        held_out=held_out,
        reasons=tuple(reasons),
    )
