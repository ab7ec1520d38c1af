"""Approach 1: the lower envelope of training curves, and power laws through it.

For many budgets the run of lowest loss at that budget is taken, whatever its size; its N and D,
against the budget, are two power laws. Needs checkpoints along training, with a schedule that does
not punish early stopping; everything below uses finished or nearly finished runs only if the table
does. Hoffmann et al. 2022, approach 1.
"""

from dataclasses import dataclass

import numpy as np

from scaling.tables.dataset import Dataset


@dataclass(frozen=True, kw_only=True, eq=False)
class Envelope:
    """The envelope and the power laws through it.

    Args:
        C: budgets (m,) in FLOP.
        N: size (m,) of the best run at each.
        D: tokens (m,) of the best run at each.
        loss: its loss (m,), interpolated along its curve.
        exponents: (a, b) of N ~ C^a and D ~ C^b.
        intercepts: log10 of N and D at 1 FLOP.
    """

    C: np.ndarray
    N: np.ndarray
    D: np.ndarray
    loss: np.ndarray
    exponents: tuple[float, float]
    intercepts: tuple[float, float]

    def optimum(self, C: float) -> tuple[float, float]:
        """Returns N and D for a budget, by the two power laws."""
        a, b = self.exponents
        return (
            float(10 ** (self.intercepts[0] + a * np.log10(C))),
            float(10 ** (self.intercepts[1] + b * np.log10(C))),
        )


def envelope(ds: Dataset, budgets: int = 1500) -> Envelope:
    """Runs approach 1 on a table of checkpoints.

    Args:
        ds: a table with N, D and loss, several D for every N.
        budgets: how many budgets, evenly in log C, over those that at least two sizes reach.

    Returns:
        The envelope and its power laws.

    Raises:
        ValueError: fewer than two sizes have a curve, or their budgets do not overlap.
    """
    curves = _curves(ds)
    if len(curves) < 2:
        raise ValueError(f"Approach 1 needs curves of two sizes or more; got {len(curves)}.")
    low = np.sort([c.min() for _, c, _ in curves])[1]
    high = np.sort([c.max() for _, c, _ in curves])[-2]
    if low >= high:
        raise ValueError("Approach 1 needs curves that overlap in compute; these do not.")
    grid = np.linspace(low, high, budgets)
    table = np.stack([np.interp(grid, c, y, left=np.inf, right=np.inf) for _, c, y in curves])
    best = table.argmin(0)
    size = np.array([s for s, _, _ in curves])[best]
    # Where the winner is the smallest or the largest size, the true winner may not be in the table.
    inner = (best > 0) & (best < len(curves) - 1)
    if len(np.unique(best[inner])) < 2:
        inner = np.ones_like(inner)
    C = np.exp(grid[inner])
    n, d = size[inner], C / (6 * size[inner])
    a, n_1 = np.polyfit(np.log10(C), np.log10(n), 1)
    b, d_1 = np.polyfit(np.log10(C), np.log10(d), 1)
    return Envelope(
        C=C,
        N=n,
        D=d,
        loss=table.min(0)[inner],
        exponents=(float(a), float(b)),
        intercepts=(float(n_1), float(d_1)),
    )


def _curves(ds: Dataset) -> list[tuple[float, np.ndarray, np.ndarray]]:
    """Returns the size, log C and loss of every size that has more than one D."""
    N, D, loss = (np.asarray(ds[k], float) for k in ("N", "D", "loss"))
    curves = []
    for size in np.unique(N):
        rows = np.flatnonzero(size == N)
        rows = rows[np.argsort(D[rows])]
        if len(np.unique(D[rows])) > 1:
            curves.append((size, np.log(6 * size * D[rows]), loss[rows]))
    return curves
