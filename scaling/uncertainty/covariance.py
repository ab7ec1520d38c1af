"""Covariance of a fit in its coordinates, for least squares and for the Huber objective.

For an M-estimator with homoscedastic noise the covariance is ``tau^2 / kappa^2 (J^T J)^-1``, where
tau^2 is the variance of the influence and kappa the mean of its derivative. For least squares kappa
is 1. For Huber it is the share of residuals within the threshold; with noise far above the
threshold the objective is nearly the absolute value and that share is a density at zero, estimated
from a wider window.
"""

from dataclasses import dataclass

import numpy as np

from scaling.fitting.coordinates import Coordinates
from scaling.fitting.objectives import Objective
from scaling.fitting.polish import residual_jacobian


@dataclass(frozen=True, kw_only=True, eq=False)
class Covariance:
    """What the curvature at the optimum says.

    Args:
        matrix: covariance (p, p) in the coordinates of the fit.
        dof: degrees of freedom n - p of Student's t.
        scale: robust standard deviation of one residual.
        condition: condition number of the Jacobian with columns of unit length.
        weakest: the direction (p,) in scaled coordinates that the data determine least.
        tau2: variance of the influence; kappa: mean of its derivative.
    """

    matrix: np.ndarray
    dof: int
    scale: float
    condition: float
    weakest: np.ndarray
    tau2: float
    kappa: float

    @property
    def errors(self) -> np.ndarray:
        """Standard errors (p,) of the coordinates."""
        return np.sqrt(np.diag(self.matrix))


def curvature(objective: Objective, residual: np.ndarray, p: int, weights=None) -> tuple:
    """Returns (tau2, kappa, scale) of residuals (n,) after a fit of p parameters."""
    w = np.ones_like(residual) if weights is None else weights
    n = len(residual)
    dof = max(n - p, 1)
    tau2 = float((w * objective.influence(residual) ** 2).sum() / dof)
    size = np.abs(residual)
    if np.isinf(objective.threshold):
        return tau2, 1.0, float(np.sqrt(tau2))
    # A robust fit passes almost through p points; they say nothing about the noise.
    left = np.sort(size)[min(p, n - 1) :]
    scale = 1.4826 * float(np.median(left))
    window = max(objective.threshold, scale * max(n, 2) ** -0.2)
    share = max(float((left <= window).sum()), 1.0) / len(left)
    kappa = share * objective.threshold / window
    return tau2, kappa, scale


def covariance(coords: Coordinates, objective: Objective, u: np.ndarray, weights=None):
    """Returns the ``Covariance`` at the optimum ``u`` (p,)."""
    residual, jac = residual_jacobian(coords, objective, u)
    p, n = jac.shape
    tau2, kappa, scale = curvature(objective, residual, p, weights)
    root = 1.0 if weights is None else np.sqrt(weights)
    lengths = np.linalg.norm(jac * root, axis=1)
    # A parameter that nothing depends on keeps a column of zeros, and so a huge variance.
    lengths = np.maximum(lengths, 1e-13 * lengths.max(initial=1e-100))
    scaled = jac * root / lengths[:, None]
    left, singular, _ = np.linalg.svd(scaled, full_matrices=False)
    usable = np.maximum(singular, 1e-10 * singular[0])
    inverse = (left / usable**2) @ left.T
    matrix = tau2 / kappa**2 * inverse / lengths[:, None] / lengths[None, :]
    return Covariance(
        matrix=matrix,
        dof=max(n - p, 1),
        scale=scale,
        condition=float(singular[0] / max(singular[-1], 1e-300)),
        weakest=left[:, -1],
        tau2=tau2,
        kappa=kappa,
    )


def uneven_errors(coords: Coordinates, objective: Objective, u: np.ndarray) -> np.ndarray:
    """Returns standard errors (p,) that allow noise to differ from row to row.

    The sandwich with the rows' own influence and, for Huber, with the density of each row's
    neighborhood instead of a common one (Powell). Noisy on small tables: used to judge the common
    errors, not to replace them.
    """
    residual, jac = residual_jacobian(coords, objective, u)
    p, n = jac.shape
    scale = curvature(objective, residual, p)[2]
    influence = objective.influence(residual)
    if np.isinf(objective.threshold):
        bread = jac @ jac.T
    else:
        window = max(objective.threshold, 2 * scale * n**-0.2)
        inside = np.abs(residual) <= window
        bread = (jac * inside) @ jac.T * objective.threshold / window
    inverse = np.linalg.pinv(bread, rcond=1e-12)
    meat = (jac * influence**2) @ jac.T * n / max(n - p, 1)
    return np.sqrt(np.maximum(np.diag(inverse @ meat @ inverse), 0.0))


def quantile_t(level: float, dof: int) -> float:
    """Returns the half-width, in standard errors, of a two-sided interval."""
    from scipy.special import stdtrit

    return float(stdtrit(dof, 0.5 + level / 2))
