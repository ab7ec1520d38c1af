"""Pictures of rows against a fit: predicted and actual losses, residuals along each predictor."""

from typing import Any

import numpy as np

from scaling.fitting.result import FitResult
from scaling.plotting import style
from scaling.tables.dataset import Dataset

#: How far below its largest value the profile of a parameter that is open toward zero is drawn.
_SHOWN = 1e4


def extrapolation(fit: FitResult, held_out: Dataset | None = None, level: float = 0.95) -> Any:
    """Draws predicted against actual targets, and rows that the fit has not seen as stars.

    Args:
        fit: the fit.
        held_out: rows that were held out; none by default.
        level: coverage of the intervals around the predictions of held-out rows.
    """
    made, axes = style.figure(width=5.6, height=5.0)
    ax = axes[0, 0]
    coords = fit.problem.coords
    predicted = coords.predict(fit.u)
    ax.plot(coords.y, predicted, label=f"fitted rows ({fit.n})", **style.dots(0))
    everything = [coords.y, predicted]
    if held_out is not None:
        rows = held_out.complete(fit.law, "drop")
        y = rows.target(fit.law)
        value, low, high = fit.predict(rows, ci=level, kind="new_run")
        error = np.abs(np.log(value / y)).mean()
        ax.errorbar(
            y, value, yerr=[np.maximum(value - low, 0), np.maximum(high - value, 0)],
            fmt="*", color="black", markersize=11, linewidth=0.8, capsize=2,
            label=f"held out ({len(rows)}), mean |log error| {error:.4f}",
        )  # fmt: skip
        everything += [y, value]
    ends = np.array([np.min(np.concatenate(everything)), np.max(np.concatenate(everything))])
    ax.plot(ends, ends, color="0.4", linewidth=0.8, label="prediction = actual")
    unit = "nats/token" if fit.law.target != "metric" else "metric"
    ax.set(xlabel=f"actual {fit.law.target} ({unit})", ylabel=f"predicted {fit.law.target}")
    ax.set_title(f"{fit.law.name}: RMS of log residuals {fit.rms:.4g}", fontsize=10)
    style.legend(ax, 2)
    return made


def residuals(fit: FitResult) -> Any:
    """Draws log residuals along every predictor; trends in them are what the law misses."""
    names = list(fit.law.predictors)
    made, axes = style.figure(1, len(names), width=3.4, height=3.2)
    residual = 100 * fit.log_residuals
    for ax, name in zip(axes[0], names):
        column = np.asarray(fit.problem.coords.x[name])
        if name in fit.law.labels:
            labels, codes = np.unique(column, return_inverse=True)
            ax.plot(codes, residual, **style.dots(0))
            ax.set_xticks(range(len(labels)), labels, rotation=90, fontsize=7)
        else:
            ax.plot(column, residual, **style.dots(0))
            if name in ("N", "D", "C", "B") and column.min() < column.max():
                style.log_axis(ax.xaxis, column.min(), column.max())
        ax.axhline(0, color="0.4", linewidth=0.8)
        ax.set_xlabel(style.named(name))
    axes[0, 0].set_ylabel("log(predicted) - log(actual), %")
    made.suptitle(f"{fit.law.name}: residuals of {fit.n} rows", fontsize=10)
    return made


def profiles(fit: FitResult, level: float = 0.95, names: tuple[str, ...] | None = None) -> Any:
    """Draws the profile likelihood of every free parameter with its threshold.

    A curve that never reaches the threshold on one side belongs to a parameter that the data do not
    bound; the title says so.
    """
    chosen = names or fit.free
    columns = min(4, len(chosen))
    rows = -(-len(chosen) // columns)
    made, axes = style.figure(rows, columns, width=3.0, height=2.6)
    for ax in axes.flat[len(chosen) :]:
        ax.set_visible(False)
    for ax, name in zip(axes.flat, chosen):
        curve = fit.profile(name, level)
        shown = curve.ratio <= 2.5 * curve.threshold
        ax.plot(curve.values[shown], curve.ratio[shown], color="black", marker=".", linewidth=1.2)
        ax.axhline(curve.threshold, color="0.4", linestyle="--", linewidth=0.9)
        ax.axvline(fit.params[name], color="0.6", linestyle=":", linewidth=0.9)
        used = curve.values[shown]
        if used.min() > 0 and used.max() / used.min() > 30:
            style.powers_of_ten(ax)
            if curve.open_lower:
                ax.set_xlim(left=max(used.min(), used.max() / _SHOWN))
        sides = [s for s, is_open in (("below", curve.open_lower), ("above", curve.open_upper))
                 if is_open]  # fmt: skip
        doubt = f" (not bounded {' or '.join(sides)})" if sides else ""
        ax.set_title(f"{name} = {fit.params[name]:.4g}{doubt}", fontsize=9)
        ax.tick_params(labelsize=7)
    for ax in axes[:, 0]:
        ax.set_ylabel("likelihood ratio", fontsize=8)
    made.suptitle(f"{fit.law.name}: profiles, dashed at {level:.0%}", fontsize=10)
    return made
