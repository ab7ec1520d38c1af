"""Robust least squares from a starting point, with exact derivatives.

SciPy's trust-region reflective method on the residuals in units of the Huber threshold. SciPy is
imported here, when a fit is asked for, because its optimizers take half a second to load.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from scaling.fitting.coordinates import Coordinates
from scaling.fitting.objectives import Objective


@dataclass(frozen=True, kw_only=True, eq=False)
class End:
    """Where a start ended.

    Args:
        u: coordinates (p,).
        objective: the objective there.
        converged: whether a tolerance was met before the evaluations ran out.
        evaluations: how often the law was evaluated.
        gradient: the largest component of the gradient of the objective, relative to its value.
        moved: distance between start and end, in coordinates.
    """

    u: np.ndarray
    objective: float
    converged: bool
    evaluations: int
    gradient: float
    moved: float


class _Problem:
    """Residuals, Jacobian and loss in the shape SciPy wants, computed once per point."""

    def __init__(self, coords: Coordinates, objective: Objective, weights: np.ndarray | None):
        self.coords, self.objective = coords, objective
        self.weights = weights
        t = objective.threshold
        self.unit = t if np.isfinite(t) else 1.0
        self.linear = np.isinf(t)
        if self.linear and weights is not None:
            self.root = np.sqrt(weights)
        else:
            self.root = np.ones(len(coords.y))

    def residual(self, u: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            r = self.objective.residual(self.coords.predict(u), self.coords.y)
        return np.nan_to_num(self.root * r / self.unit, nan=1e12, posinf=1e12, neginf=-1e12)

    def jacobian(self, u: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            jac = residual_jacobian(self.coords, self.objective, u)[1]
        return np.nan_to_num((self.root * jac).T / self.unit)

    def loss(self, z: np.ndarray) -> np.ndarray:
        """Weighted Huber in SciPy's convention: rho(z) of squared residuals, and derivatives."""
        w = 1.0 if self.weights is None else self.weights
        inside = z <= 1
        root = np.sqrt(np.where(inside, 1.0, z))
        rho = np.where(inside, z, 2 * root - 1)
        first = np.where(inside, 1.0, 1 / root)
        second = np.where(inside, 0.0, -0.5 / root**3)
        return np.stack([w * rho, w * first, w * second])


def residual_jacobian(coords: Coordinates, objective: Objective, u: np.ndarray):
    """Returns residuals (..., n) and their derivatives (..., p, n)."""
    prediction, jac = coords.prediction_and_jacobian(u)
    if objective.on_logs:
        jac = jac / prediction[..., None, :]
    elif objective.name == "mae-asym":
        above = (prediction > coords.y)[..., None, :]
        jac = jac * np.where(above, 1 + objective.asymmetry, 1.0)
    return objective.residual(prediction, coords.y), jac


def _nothing_to_move(coords: Coordinates, objective: Objective, weights) -> End:
    """Returns the end of a fit whose parameters are all held."""
    u = np.empty(0)
    value = float(objective.value(objective.residual(coords.predict(u), coords.y), weights))
    return End(u=u, objective=value, converged=True, evaluations=1, gradient=0.0, moved=0.0)


def polish(
    coords: Coordinates,
    objective: Objective,
    start: np.ndarray,
    weights: np.ndarray | None = None,
    max_evaluations: int = 400,
    tolerance: float = 1e-13,
) -> End:
    """Minimizes the objective from ``start``.

    Args:
        coords: the coordinates of the fit.
        objective: what is minimized.
        start: coordinates (p,) inside the limits.
        weights: nonnegative weights (n,) of the rows; ones by default.
        max_evaluations: after how many evaluations to give up.
        tolerance: relative change of the objective and of the coordinates that ends the search.

    Returns:
        The end point.
    """
    from scipy.optimize import least_squares

    problem = _Problem(coords, objective, weights)
    start = coords.inside(start)
    if len(start) == 0:
        return _nothing_to_move(coords, objective, weights)
    ends = {"ftol": tolerance, "xtol": tolerance, "gtol": 1e-14, "max_nfev": max_evaluations}
    out = least_squares(
        problem.residual,
        start,
        jac=problem.jacobian,  # pyright: ignore[reportArgumentType]
        bounds=coords.limits,
        loss="linear" if problem.linear else problem.loss,  # pyright: ignore[reportArgumentType]
        x_scale="jac",
        **ends,
    )
    return _end(out, problem, start)


def _end(out: Any, problem: "_Problem", start: np.ndarray) -> End:
    """Returns where the search ended, in the units of the objective."""
    value = float(out.cost) * problem.unit**2
    slope = float(np.abs(out.grad).max()) * problem.unit**2
    return End(
        u=out.x,
        objective=value,
        converged=out.status > 0,
        evaluations=int(out.nfev),
        gradient=slope / max(value, 1e-300),
        moved=float(np.linalg.norm(out.x - start)),
    )
