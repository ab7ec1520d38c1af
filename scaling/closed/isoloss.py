"""Contours of any law: the value of one predictor at which a loss is reached."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from scaling.laws.law import Law


def solve_for(
    law: Law,
    params: Mapping[str, float],
    target: float,
    predictor: str,
    points: Mapping[str, Any],
    *,
    low: float = 1.0,
    high: float = 1e18,
) -> np.ndarray:
    """Returns the value of ``predictor`` at which the law predicts ``target``.

    Args:
        law: any law that falls monotonically in the predictor over [low, high].
        params: its parameters.
        target: the loss to be reached, nats.
        predictor: the column to solve for, such as "N" or "D".
        points: the other predictors, scalars or arrays (m,).
        low: where the search begins.
        high: where it ends.

    Returns:
        Values (m,); infinite where even ``high`` does not reach the target, ``low`` where the
        target is reached at once. For laws with a minimum in D the smallest solution is meant:
        bound the search by the critical data.
    """
    others = {k: np.atleast_1d(np.asarray(v)) for k, v in points.items() if k != predictor}
    size = max((len(v) for v in others.values()), default=1)
    lo, hi = np.full(size, np.log(low)), np.full(size, np.log(high))

    def loss(at: np.ndarray) -> np.ndarray:
        return np.asarray(law.predict(params, others | {predictor: np.exp(at)}))

    never, at_once = loss(hi) > target, loss(lo) <= target
    for _ in range(100):
        middle = (lo + hi) / 2
        above = loss(middle) > target
        lo, hi = np.where(above, middle, lo), np.where(above, hi, middle)
    return np.where(never, np.inf, np.where(at_once, low, np.exp((lo + hi) / 2)))
