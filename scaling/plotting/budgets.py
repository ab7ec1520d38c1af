"""Pictures along budgets: IsoFLOP curves, optimal precision, losses that rise with more data."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from scaling.fitting.result import FitResult
from scaling.laws.published import Published
from scaling.planning.budget import Budget
from scaling.planning.candidates import Candidate, candidates
from scaling.planning.choices import spoken
from scaling.planning.limits import critical_data
from scaling.planning.precision import precision_path
from scaling.planning.search import minimize
from scaling.plotting import style

_FLOP = 6.0


def budgets_of(fit: FitResult | Published, count: int = 5) -> np.ndarray:
    """Returns training budgets (count,) that span the fitted runs, FLOP; 1e19 to 1e23 without."""
    if isinstance(fit, Published):
        return np.geomspace(1e19, 1e23, count)
    x = fit.problem.coords.x
    compute = _FLOP * np.asarray(x["N"], float) * np.asarray(x["D"], float)
    low, high = np.quantile(compute, [0.1, 0.95])
    return np.geomspace(low, high, count)


def isoflop(
    fit: FitResult | Published,
    compute: Iterable[float] | None = None,
    format: str | None = None,
    held: Mapping[str, Any] | None = None,
) -> Any:
    """Draws loss along N at several budgets C = 6 N D, with the path of the optimum.

    Args:
        fit: a law of N and D.
        compute: budgets, FLOP; from the fitted rows by default.
        format: the format for laws that read one; the one with the most bits by default.
        held: predictors that keep one value.
    """
    chosen = candidates(fit.law, None if format is None else (format,), held)
    fmt = max(chosen, key=lambda c: c.bits or 0.0)
    made, axes = style.figure(width=6.8)
    ax = axes[0, 0]
    values = np.array(budgets_of(fit) if compute is None else list(compute), float)
    params = {k: np.full((1, 1), v) for k, v in fit.law.complete(fit.params).items()}
    path = []
    for i, c in enumerate(values):
        best = minimize(fit.law, params, fmt.point, Budget(compute=float(c)), _FLOP, 0.0)
        center = float(best.N[0, 0])
        N = center * np.geomspace(1 / 30, 30, 121)
        loss = fit.law.predict(fit.params, {"N": N, "D": c / (_FLOP * N), **fmt.point})
        drawn = _runs_near(ax, fit, fmt, c, i)
        look = style.with_dots(i) if drawn else style.line(i)
        ax.plot(N, loss, label=f"{style.short(float(f'{c:.2g}'))} FLOP", **look)
        path.append((center, float(best.loss[0, 0])))
    ax.plot(*zip(*path), color="black", marker="*", markersize=11, linewidth=0.9,
            label="optimum")  # fmt: skip
    sizes = [p[0] for p in path]
    style.log_axis(ax.xaxis, min(sizes) / 30, max(sizes) * 30)
    ax.set(xlabel="N (parameters)", ylabel="loss (nats/token)")
    lowest, highest = min(p[1] for p in path), max(p[1] for p in path)
    ax.set_ylim(lowest - 0.05 * lowest, highest + 0.6 * max(highest - lowest, 0.05 * lowest))
    name = f" in {fmt.name}" if fmt.point else ""
    ax.set_title(f"{fit.law.name}{name}: IsoFLOP curves", fontsize=10)
    style.legend(ax, len(values) + 1)
    return made


def _runs_near(ax: Any, fit: FitResult | Published, fmt: Candidate, c: float, index: int) -> int:
    """Draws the fitted rows whose budget is within a tenth of a decade of ``c``; how many."""
    if isinstance(fit, Published):
        return 0
    x = fit.problem.coords.x
    compute = _FLOP * np.asarray(x["N"], float) * np.asarray(x["D"], float)
    near = np.abs(np.log10(compute / c)) < 0.1
    for name, value in fmt.point.items():
        column = np.asarray(x[name])
        wanted = value[0] if isinstance(value, list) else value
        near &= column == wanted if column.dtype.kind in "OU" else np.isclose(column, wanted)
    ax.plot(np.asarray(x["N"])[near], fit.problem.coords.y[near], **style.dots(index))
    return int(near.sum())


def precision_vs_compute(
    fit: FitResult | Published,
    compute: Iterable[float] | None = None,
    held: Mapping[str, Any] | None = None,
    cost: Any = "bits",
    draws: int = 100,
) -> Any:
    """Draws the optimal precision along budgets, with its interval over the draws.

    Args:
        fit: a law of bits, or of exponent and mantissa bits.
        compute: budgets, FLOP of 16-bit products.
        held: predictors that keep one value, such as {"B": 128}.
        cost: the cost model, without a table.
        draws: draws of the parameters.
    """
    span = budgets_of(fit, 2)
    default = np.geomspace(span[0] / 10, span[-1] * 1e4, 13)
    values = default if compute is None else np.array(list(compute), float)
    found = precision_path(fit, values, held=held, cost=cost, draws=draws)
    made, axes = style.figure(width=6.0, height=4.0)
    ax = axes[0, 0]
    if found.interval is not None:
        style.shade(ax, found.compute, *found.interval)
    ax.plot(found.compute, found.bits, color="black", marker="o", markersize=4, linewidth=1.5)
    if isinstance(fit, FitResult):
        x = fit.problem.coords.x
        most = float((_FLOP * np.asarray(x["N"]) * np.asarray(x["D"])).max())
        ax.axvline(most, color="0.4", linestyle="--", linewidth=0.9)
        ax.annotate(" largest fitted run", (most, 0.03), xycoords=("data", "axes fraction"),
                    fontsize=8)  # fmt: skip
        ax.margins(y=0.15)
    style.log_axis(ax.xaxis, values.min(), values.max())
    band = "" if found.interval is None else f", band {found.level:.0%}"
    ax.set(xlabel="budget (FLOP of 16-bit products)", ylabel="optimal precision (bits)")
    ax.set_title(f"{fit.law.name}: precision that a budget wants{band}", fontsize=10)
    return made


def loss_vs_data(
    fit: FitResult | Published,
    N: float | None = None,
    formats: Iterable[str] | None = None,
    held: Mapping[str, Any] | None = None,
) -> Any:
    """Draws loss along D at one size, one curve per format, and marks where it begins to rise.

    Args:
        fit: a law of N and D.
        N: parameters; the median of the fitted rows, or 1e9, by default.
        formats: formats to draw; those of a plan by default.
        held: predictors that keep one value.
    """
    if N is None:
        rows = None if isinstance(fit, Published) else np.asarray(fit.problem.coords.x["N"], float)
        N = 1e9 if rows is None else float(np.median(rows))
    chosen = sorted(candidates(fit.law, formats, held), key=lambda c: c.bits or 0.0)[: style.MOST]
    crits = [critical_data(fit, c, N) for c in chosen]
    near = [crit for crit in crits if crit is not None and crit < 1e6 * N]
    low, high = 5 * N, max([5e3 * N, *(10 * crit for crit in near)])
    D = np.geomspace(low, high, 241)
    made, axes = style.figure(width=6.8)
    ax = axes[0, 0]
    lowest, first = np.inf, -np.inf
    for i, (candidate, crit) in enumerate(zip(chosen, crits)):
        loss = fit.law.predict(fit.params, {"N": np.full_like(D, N), "D": D, **candidate.point})
        lowest, first = min(lowest, float(loss.min())), max(first, float(loss[0]))
        ax.plot(D, loss, label=_with_limit(spoken(candidate.name), crit), **style.line(i))
        if crit is not None and low < crit < high:
            points = {"N": np.array([N]), "D": np.array([crit]), **candidate.point}
            ax.plot(crit, fit.law.predict(fit.params, points), linestyle="none", marker="*",
                    color=style.COLORS[i], markersize=11, markeredgecolor="black")  # fmt: skip
    # A curve that rises far above its start would flatten all others.
    ax.set_ylim(lowest - 0.06 * (first - lowest), first + 0.2 * (first - lowest))
    style.log_axis(ax.xaxis, low, high)
    ax.set(xlabel="D (tokens)", ylabel="loss (nats/token)")
    stars = "; stars: D_crit" if near else ""
    ax.set_title(f"{fit.law.name} at N = {style.short(N)} parameters{stars}", fontsize=10)
    if any(candidate.point for candidate in chosen):
        style.legend(ax, len(chosen))
    return made


def _with_limit(name: str, crit: float | None) -> str:
    return name if crit is None else f"{name}, D_crit {style.short(crit)}"
