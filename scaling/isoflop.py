"""Approach 2: parabolas through runs of equal compute, then a line through their minima.

Needs no law and no optimizer, and is biased: a parabola is not the shape of the loss, so that the
minimum moves with the width of the window unless both exponents are equal. ``bias`` measures by how
much on a noise-free surface. Prefer a fit of the law (approach 3) and use this to look at data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scaling.closed import chinchilla
from scaling.tables.dataset import Dataset

BIAS_NOTE = (
    "Approach 2 is biased: on a noise-free surface with exponents .34 and .28, windows of 2, 4, 8 "
    "and 16 times around the optimum put D* at 1e24 FLOP off by -0.3, -1.3, -2.9 and -5.1 %. "
    "Fit a law (approach 3) for a number to rely on."
)
#: Budgets that differ by less than this factor are one curve.
_SAME_BUDGET = 1.15


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """One parabola of log loss-optimal data.

    Args:
        C: training FLOP.
        D: tokens (m,) of its runs.
        loss: their losses (m,).
        coefficients: of the parabola in log10 D, highest power first.
        D_opt: the minimum.
        inside: whether the minimum lies within the runs and the parabola opens upward.
    """

    C: float
    D: np.ndarray
    loss: np.ndarray
    coefficients: np.ndarray
    D_opt: float
    inside: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class IsoFlop:
    """Curves and the path through their minima.

    Args:
        curves: one parabola per budget, smallest first.
        exponent: b of D_opt ~ C^b.
        intercept: log10 of D_opt at 1 FLOP.
        note: the bias to keep in mind.
    """

    curves: tuple[Curve, ...]
    exponent: float
    intercept: float
    note: str = BIAS_NOTE

    def data(self, C: float) -> float:
        """Returns D_opt at C training FLOP along the path."""
        return float(10 ** (self.intercept + self.exponent * np.log10(C)))

    def size(self, C: float) -> float:
        """Returns N_opt = C / (6 D_opt)."""
        return C / (6 * self.data(C))


def parabola(D, loss, C: float = np.nan) -> Curve:
    """Fits a parabola in log10 D through runs of one budget.

    Args:
        D: tokens (m,), at least three distinct values.
        loss: losses (m,).
        C: the budget, for the record.

    Raises:
        ValueError: there are fewer than three distinct D.
    """
    D, loss = np.asarray(D, float), np.asarray(loss, float)
    x = np.log10(D)
    if len(np.unique(x)) < 3:
        raise ValueError(f"A parabola needs 3 different D at C={C:g}; got {len(np.unique(x))}.")
    middle = x.mean()
    a, b, c = np.polyfit(x - middle, loss, 2)
    at = middle - b / (2 * a) if a > 0 else x[np.argmin(loss)]
    inside = bool(a > 0 and x.min() <= at <= x.max())
    shifted = np.array([a, b - 2 * a * middle, c - b * middle + a * middle**2])
    return Curve(C=C, D=D, loss=loss, coefficients=shifted, D_opt=float(10**at), inside=inside)


def isoflop(ds: Dataset, window: float | None = None) -> IsoFlop:
    """Runs approach 2 on a table.

    Args:
        ds: a table with loss, N and D; C is their 6 N D where it is not given.
        window: keep runs whose D is within this factor of the curve's best run; all by default.

    Returns:
        The curves with a minimum inside, and the line through the minima.

    Raises:
        ValueError: fewer than two budgets have a curve with a minimum.
    """
    D, loss = np.asarray(ds["D"], float), ds["loss"]
    C = np.asarray(ds["C"], float) if "C" in ds else 6 * np.asarray(ds["N"], float) * D
    curves = []
    for rows in _budgets(C):
        d, y = D[rows], loss[rows]
        if window is not None:
            near = np.abs(np.log(d / d[np.argmin(y)])) <= np.log(window) + 1e-9
            d, y = d[near], y[near]
        if len(np.unique(d)) >= 3:
            curves.append(parabola(d, y, float(np.exp(np.log(C[rows]).mean()))))
    good = [curve for curve in curves if curve.inside]
    if len(good) < 2:
        raise ValueError(
            f"Approach 2 needs two budgets whose curve has a minimum inside; {len(curves)} of the "
            f"budgets have 3 runs or more, {len(good)} of them a minimum."
        )
    return through(good)


def through(curves: Sequence[Curve]) -> IsoFlop:
    """Returns the line through the minima of at least two curves."""
    x = np.log10([curve.C for curve in curves])
    y = np.log10([curve.D_opt for curve in curves])
    slope, intercept = np.polyfit(x, y, 1)
    return IsoFlop(curves=tuple(curves), exponent=float(slope), intercept=float(intercept))


def _budgets(C: np.ndarray) -> list[np.ndarray]:
    """Returns the rows of each budget, smallest first."""
    order = np.argsort(C, kind="stable")
    cuts = np.flatnonzero(np.diff(np.log(C[order])) > np.log(_SAME_BUDGET)) + 1
    return np.split(order, cuts)


def bias(
    params: Mapping[str, float],
    window: float,
    *,
    target: float = 1e24,
    budgets: Sequence[float] = (1e17, 1e18, 1e19, 1e20, 1e21),
    points: int = 15,
    drift: float = 1.0,
) -> tuple[float, float]:
    """Measures approach 2 on a noise-free Chinchilla surface.

    Args:
        params: A, B, E, alpha, beta of the surface.
        window: runs span D* / window to D* * window at each budget.
        target: the budget to which the path is extrapolated.
        budgets: budgets of the curves.
        points: runs per curve.
        drift: factor by which the window's center is off D* at the largest budget; its logarithm
            grows linearly from 0 at the smallest.

    Returns:
        The relative error of D* at ``target``, and the error of the exponent.
    """
    curves = []
    for share, C in zip(np.linspace(0, 1, len(budgets)), budgets):
        center = chinchilla.optimal_data(params, C) * drift**share
        D = center * np.geomspace(1 / window, window, points)
        curves.append(parabola(D, chinchilla.loss(params, C / (6 * D), D), C))
    path = through(curves)
    error = path.data(target) / chinchilla.optimal_data(params, target) - 1
    return error, path.exponent - chinchilla.allocation_exponents(params)[1]
