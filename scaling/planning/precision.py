"""The precision that a budget wants, as a real number of bits, with its uncertainty.

Real-valued bits show where formats should be, between those that exist. For Sun's law the bits are
split between exponent and mantissa as the law wants; for laws in bits every tensor that is not held
has the same number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaling.closed import sun
from scaling.fitting.result import FitResult
from scaling.laws.law import Law
from scaling.laws.published import Published
from scaling.planning.budget import Budget
from scaling.planning.candidates import Candidate
from scaling.planning.costs import FORWARD, Cost, read_cost
from scaling.planning.search import golden, minimize

#: Bits between which the optimum is searched.
LOWEST, HIGHEST = 1.0, 32.0
_TENSORS = ("P", "P_w", "P_a", "P_kv")


@dataclass(frozen=True, kw_only=True, eq=False)
class PrecisionPath:
    """The optimal precision along budgets.

    Args:
        compute: budgets (m,), FLOP of 16-bit products.
        bits: the best precision (m,) at each.
        N: the best size (m,).
        D: the best data (m,).
        interval: lower and upper bits (2, m) over the draws, or None without draws.
        level: coverage of the interval.
    """

    compute: np.ndarray
    bits: np.ndarray
    N: np.ndarray
    D: np.ndarray
    interval: np.ndarray | None
    level: float


def precision_path(
    fit: FitResult | Published,
    compute: Sequence[float] | np.ndarray,
    *,
    cost: Any = "bits",
    held: Mapping[str, Any] | None = None,
    constraints: Mapping[str, tuple[float | None, float | None]] | None = None,
    draws: int = 100,
    level: float = 0.95,
    seed: int = 0,
) -> PrecisionPath:
    """Finds the real-valued precision, N and D that minimize the loss along budgets.

    Args:
        fit: a law of bits (P, P_w, P_a, P_kv) or of exponent and mantissa bits.
        compute: budgets (m,), FLOP of 16-bit products.
        cost: "bits" or "flops16"; a table knows no precisions between its formats.
        held: predictors that keep one value, such as {"B": 128} for Sun's law.
        constraints: as for ``plan``.
        draws: draws of the parameters; 0 for none.
        level: coverage of the interval.
        seed: fixes the draws of a fit without bootstrap.

    Raises:
        ValueError: the law has no precision, a predictor is left open, or the cost is a table.
    """
    law, model, held = fit.law, read_cost(cost), dict(held or {})
    point_at = points_at_bits(law, held)
    if model.speed is not None:
        raise ValueError("A table of throughputs has no precision between its formats; use 'bits'.")
    budgets = np.atleast_1d(np.asarray(compute, float))
    limits = dict(constraints or {})
    best = {k: np.full((1, 1), v) for k, v in law.complete(fit.params).items()}
    bits, size, data = (v[0] for v in _solve(law, best, point_at, budgets, limits, model))
    band = None
    if draws > 0 and isinstance(fit, FitResult) and len(fit.free):
        sample = {k: np.asarray(v)[:draws, None] for k, v in fit.sample(draws, seed).items()}
        cloud = _solve(law, sample, point_at, budgets, limits, model)[0]
        band = np.stack(fit.central(cloud, level))
    return PrecisionPath(compute=budgets, bits=bits, N=size, D=data, interval=band, level=level)


def _solve(law: Law, params, point_at, budgets: np.ndarray, limits, model: Cost):
    """Returns bits, N and D (r, m) for r draws and m budgets.

    A search over bits around the search over sizes; every draw at every budget is one row of both.
    """
    draws = max(np.asarray(v).shape[0] for v in params.values())
    rows = draws * len(budgets)
    tiled = {k: np.repeat(np.asarray(v), len(budgets), axis=0) for k, v in params.items()}
    budget = Budget(compute=np.tile(budgets, draws)[:, None], limits=limits)
    nobody = Candidate(name="any", element="any", point={}, bits=None, stored=None)

    def at(bits):
        k = model.per_product(nobody, bits) + np.zeros_like(bits)
        return minimize(law, tiled, point_at(tiled, bits), budget, k, k * FORWARD)

    def loss(bits):
        columns = [at(bits[:, j : j + 1]).loss for j in range(bits.shape[1])]
        return np.concatenate(columns, axis=1)

    low, high = np.full((rows, 1), LOWEST), np.full((rows, 1), HIGHEST)
    bits, _ = golden(loss, low, high, grid=32)
    best = at(bits)
    return tuple(v.reshape(draws, len(budgets)) for v in (bits, best.N, best.D))


def points_at_bits(law: Law, held: Mapping[str, Any]):
    """Returns a function from parameters and bits to the law's predictors besides N and D.

    Args:
        law: a law of bits (P, P_w, P_a, P_kv) or of exponent and mantissa bits.
        held: predictors that keep one value.

    Raises:
        ValueError: the law has no precision, or a predictor is neither a precision nor held.
    """
    read = [p for p in law.predictors if p not in ("N", "D")]
    free = [p for p in read if p not in held]
    searched = [p for p in free if p in _TENSORS or (p in ("E", "M") and {"E", "M"} <= set(free))]
    missing = [p for p in free if p not in searched]
    if not searched:
        raise ValueError(f"Law {law.name!r} reads {law.predictors}; it has no precision to choose.")
    if missing:
        raise ValueError(
            f"Law {law.name!r} reads {', '.join(missing)} too; hold them, as in {{'B': 128}}, or "
            "--set B=128."
        )

    def split(params, bits):
        point = dict(held)
        if "E" in searched and "M" in searched:
            point["E"], point["M"] = sun.best_split(params, bits)
        else:
            point |= dict.fromkeys(searched, bits)
        return point

    return split
