"""What a fit minimizes: a sum over rows (never a mean) of a loss of residuals, with weights.

Every objective is ``sum_i w_i * rho(r_i)`` with rho the Huber function of threshold ``delta``
(quadratic below, linear above; infinite delta is least squares). They differ in what a residual is,
and so in which noise they assume:

    huber-log   log prediction - log target   relative noise with outliers (the default)
    log-l2      log prediction - log target   relative, normal noise
    l2          prediction - target           additive, normal noise
    huber-lin   prediction - target           additive noise with outliers
    mae-asym    prediction - target, times 1 + asymmetry where the prediction lies above: traces the
                lower envelope, for tables of runs that are not all well tuned
"""

from dataclasses import dataclass

import numpy as np

NAMES = ("huber-log", "log-l2", "l2", "huber-lin", "mae-asym")


@dataclass(frozen=True, kw_only=True)
class Objective:
    """An objective: which residual, which threshold, which asymmetry.

    Args:
        name: one of ``NAMES``.
        delta: the Huber threshold in units of the residual; infinite for the least-squares kinds.
        asymmetry: extra weight of predictions above the target, for "mae-asym".
    """

    name: str = "huber-log"
    delta: float = 1e-3
    asymmetry: float = 2.0

    def __post_init__(self):
        if self.name not in NAMES:
            raise ValueError(f"objective must be one of {NAMES}, got {self.name!r}.")
        if not self.delta > 0:
            raise ValueError(f"delta must be positive, got {self.delta}.")

    @property
    def on_logs(self) -> bool:
        """Whether residuals are differences of logarithms."""
        return self.name in ("huber-log", "log-l2")

    @property
    def threshold(self) -> float:
        """The Huber threshold; infinite for least squares."""
        return np.inf if self.name in ("log-l2", "l2") else self.delta

    def residual(self, prediction, target):
        """Returns residuals (..., n); complex predictions pass through, for derivatives."""
        if self.on_logs:
            return np.log(prediction) - np.log(target)
        r = prediction - target
        if self.name == "mae-asym":
            r = r * np.where(np.real(r) > 0, 1 + self.asymmetry, 1.0)
        return r

    def value(self, residual, weights=None):
        """Returns the objective, summed over the last axis."""
        r = np.abs(residual)
        t = self.threshold
        rho = r**2 / 2 if np.isinf(t) else np.where(r <= t, r**2 / 2, t * (r - t / 2))
        return (rho if weights is None else weights * rho).sum(-1)

    def influence(self, residual):
        """Returns the derivative of rho: the residual, clipped at the threshold."""
        return np.clip(residual, -self.threshold, self.threshold)
