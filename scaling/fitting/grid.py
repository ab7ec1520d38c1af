"""Literature parity: the 4500-start grid of Hoffmann et al. 2022 with L-BFGS, uncentered.

Slow and often worse than variable projection; it exists to reproduce what papers did. Every start
minimizes the objective in units of delta squared, with exact gradients and tight tolerances. Laws
other than Chinchilla's start from the same number of points spread over their search ranges.
"""

import itertools
from collections.abc import Iterator

import numpy as np

from scaling.fitting.coordinates import Coordinates
from scaling.fitting.objectives import Objective
from scaling.fitting.polish import End, residual_jacobian
from scaling.fitting.seeding import low_discrepancy

#: Hoffmann's grid: logarithms of A, B and E, and the two exponents.
_AMPLITUDES = np.arange(0, 26, 5.0)
_OFFSETS = np.arange(-1, 1.1, 0.5)
_EXPONENTS = np.arange(0, 2.1, 0.5)


def hoffmann_starts() -> Iterator[dict[str, float]]:
    """Yields the 4500 starting points in natural parameters."""
    axes = (_AMPLITUDES, _AMPLITUDES, _OFFSETS, _EXPONENTS, _EXPONENTS)
    for a, b, e, alpha, beta in itertools.product(*axes):
        logs = {"A": np.exp(a), "B": np.exp(b), "E": np.exp(e)}
        yield logs | {"alpha": float(alpha), "beta": float(beta)}


def _starts(coords: Coordinates) -> list[np.ndarray]:
    if coords.law.name == "chinchilla":
        return [coords.coordinates(coords.held | s) for s in hoffmann_starts()]
    points = low_discrepancy(4500, len(coords.free))
    lo, hi = np.empty(len(coords.free)), np.empty(len(coords.free))
    for j, name in enumerate(coords.free):
        param = coords.law.param(name)
        if name in coords.centered:
            middle = np.log(np.median(np.abs(coords.y)))
            lo[j], hi[j] = middle - 6, middle + 2
        else:
            lo[j], hi[j] = np.log(param.search) if param.log else param.search
    return [coords.inside(u) for u in lo + points * (hi - lo)]


def descend(
    coords: Coordinates, objective: Objective, start: np.ndarray, weights=None, iterations=1000
) -> End:
    """Minimizes the objective from ``start`` with L-BFGS-B, as most papers do."""
    from scipy.optimize import minimize

    unit = objective.threshold if np.isfinite(objective.threshold) else 1.0

    def value_and_gradient(u):
        with np.errstate(all="ignore"):
            r, jac = residual_jacobian(coords, objective, u)
            slope = objective.influence(r)
            slope = slope if weights is None else weights * slope
            value, gradient = objective.value(r, weights) / unit**2, jac @ slope / unit**2
        if not np.isfinite(value) or not np.isfinite(gradient).all():
            return 1e30, np.zeros_like(u)
        return value, gradient

    lo, hi = coords.limits
    out = minimize(
        value_and_gradient,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=list(zip(lo, hi)),
        options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": iterations, "maxfun": 4 * iterations},
    )
    value = float(out.fun) * unit**2
    return End(
        u=np.asarray(out.x),
        objective=value,
        converged=bool(out.success),
        evaluations=int(out.nfev),
        gradient=float(np.abs(out.jac).max()) * unit**2 / max(value, 1e-300),
        moved=float(np.linalg.norm(out.x - start)),
    )


def grid_ends(coords: Coordinates, objective: Objective, weights=None, progress=None) -> list[End]:
    """Returns where each of the 4500 starts ended, in the order of the grid."""
    tell = progress or (lambda done: None)
    ends = []
    for start in _starts(coords):
        ends.append(descend(coords, objective, start, weights))
        tell(1)
    return ends
