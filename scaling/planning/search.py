"""The search: the N and D that minimize a law for one budget and one format, for many draws.

Minimizing over two numbers becomes minimizing over one, because the budget fixes D for every N: a
grid in log N finds the valley, a golden section its bottom. Where a law says that more data hurt
(Sun's beyond the critical data) the best D is below what the budget allows, and is searched too.
Everything is vectorized over draws of the parameters, which are columns (r, 1).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaling.laws.law import Law
from scaling.planning.budget import Budget

_GOLDEN = (np.sqrt(5) - 1) / 2
_GRID = 97
_STEPS = 44


@dataclass(frozen=True, kw_only=True, eq=False)
class Optimum:
    """Best sizes, data and losses (r, 1) of r draws; infinite loss where none is possible."""

    N: np.ndarray
    D: np.ndarray
    loss: np.ndarray


def golden(
    function: Callable[[np.ndarray], np.ndarray], low: np.ndarray, high: np.ndarray, grid: int
) -> tuple[np.ndarray, np.ndarray]:
    """Minimizes a function of one variable elementwise.

    Args:
        function: maps (r, m) to values (r, m), row by row.
        low: lower ends (r, 1).
        high: upper ends (r, 1).
        grid: points of the first look, which picks the valley.

    Returns:
        Where the minimum is and its value, each (r, 1). Ends of the range are included exactly.
    """
    share = np.linspace(0.0, 1.0, grid)
    x = low + (high - low) * share
    y = function(x)
    best = np.argmin(y, axis=1)[:, None]
    edge_x, edge_y = np.take_along_axis(x, best, 1), np.take_along_axis(y, best, 1)
    a = np.take_along_axis(x, np.maximum(best - 1, 0), 1)
    b = np.take_along_axis(x, np.minimum(best + 1, grid - 1), 1)
    left, right = b - _GOLDEN * (b - a), a + _GOLDEN * (b - a)
    f_left, f_right = function(left), function(right)
    for _ in range(_STEPS):
        lower = f_left < f_right
        a, b = np.where(lower, a, left), np.where(lower, right, b)
        new = np.where(lower, b - _GOLDEN * (b - a), a + _GOLDEN * (b - a))
        f_new = function(new)
        left, right = np.where(lower, new, right), np.where(lower, left, new)
        f_left, f_right = np.where(lower, f_new, f_right), np.where(lower, f_left, f_new)
    inside = np.where(f_left < f_right, left, right)
    value = np.minimum(f_left, f_right)
    at_edge = edge_y < value
    return np.where(at_edge, edge_x, inside), np.where(at_edge, edge_y, value)


def minimize(
    law: Law,
    params: Mapping[str, Any],
    point: Mapping[str, Any],
    budget: Budget,
    k: Any,
    k_serve: Any,
    stored: float | None = None,
) -> Optimum:
    """Finds the best N and D for one format.

    Args:
        law: a law of N and D.
        params: its parameters, columns (r, 1).
        point: the law's other predictors.
        budget: what may be spent.
        k: training cost of one parameter and token, a scalar or (r, 1).
        k_serve: serving cost of one parameter and token, likewise.
        stored: bits of one stored parameter.

    Returns:
        The optimum of every draw.
    """
    rows = max(np.asarray(v).shape[0] if np.ndim(v) else 1 for v in [*params.values(), k])
    # A size that is not affordable by a rounding error is meant to be affordable.
    low, high = (np.broadcast_to(np.reshape(v, (-1, 1)), (rows, 1)) for v in
                 budget.sizes(k, k_serve, stored))  # fmt: skip
    possible = low <= high * (1 + 1e-12)
    high = np.maximum(high, low)

    def loss(N, D):
        value = np.asarray(law.predict(params, {"N": N, "D": D, **point}))
        return np.where(np.isfinite(value), value, np.inf)

    def on_budget(log_n):
        return loss(np.exp(log_n), budget.data(np.exp(log_n), k, k_serve))

    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        log_n, value = golden(on_budget, np.log(low), np.log(high), _GRID)
        N = np.exp(log_n)
        D = budget.data(N, k, k_serve)
        less = np.maximum(D * (1 - 1e-6), budget.limit("D")[0])
        if (loss(N, less) < value * (1 - 1e-13)).any():
            N, D, value = _below_budget(loss, budget, (np.log(low), np.log(high)), k, k_serve)
    return Optimum(N=N, D=D, loss=np.where(possible, value, np.inf))


def _below_budget(loss, budget: Budget, sizes, k, k_serve):
    """Searches N and, inside, D up to what the budget leaves: for laws in which data can hurt."""
    fewest = max(budget.limit("D")[0], 1.0)

    def best_data(log_n):
        shape = log_n.shape
        N = np.exp(log_n)
        top = np.log(np.maximum(budget.data(N, k, k_serve), fewest))
        columns = []
        for j in range(shape[1]):
            n, high = N[:, j : j + 1], top[:, j : j + 1]
            low = np.minimum(np.full_like(high, np.log(fewest)), high)
            columns.append(golden(lambda log_d, n=n: loss(n, np.exp(log_d)), low, high, 25))
        return (np.concatenate([c[i] for c in columns], axis=1) for i in range(2))

    log_n, value = golden(lambda log_n: list(best_data(log_n))[1], *sizes, grid=25)
    log_d, _ = best_data(log_n)
    return np.exp(log_n), np.exp(log_d), value
