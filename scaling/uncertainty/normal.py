"""Draws from the normal approximation of a fit, without those that the rows contradict.

Around a well determined optimum the objective is a parabola and the draws are normal. Where the
rows leave a parameter open, the parabola reaches far beyond what they allow (an irreducible loss of
a thousand nats, because none is needed): such draws raise the objective by more than any likely
draw would, and are drawn again. Parameters that ended on a limit stay there.
"""

from dataclasses import replace

import numpy as np

from scaling.uncertainty.covariance import covariance
from scaling.uncertainty.fitted import Fitted

#: Share of honest normal draws that lie beyond the threshold, and so are lost.
_LOST = 1e-3
_ROUNDS = 40


def normal_draws(fit: Fitted, count: int, seed: int) -> np.ndarray:
    """Returns coordinates (count, p).

    Args:
        fit: the fit.
        count: number of draws.
        seed: fixes them.

    Raises:
        ValueError: almost every draw contradicts the rows, so that the approximation is useless.
    """
    rng = np.random.default_rng(seed)
    kept: list[np.ndarray] = []
    total = 0
    for _ in range(_ROUNDS):
        drawn = _once(fit, count, rng)
        drawn = drawn[_agrees(fit, drawn)]
        kept.append(drawn)
        total += len(drawn)
        if total >= count:
            return np.concatenate(kept)[:count]
    raise ValueError(
        f"Only {total} of {_ROUNDS * count} draws of the normal approximation agree with the rows; "
        "fit with bootstrap=200, or fix the parameters that are not identified."
    )


def _once(fit: Fitted, count: int, rng: np.random.Generator) -> np.ndarray:
    coords = fit.problem.coords
    moving = ~_stuck(fit)
    drawn = np.tile(fit.u, (count, 1))
    if not moving.any():
        return drawn
    held = {n: fit.params[n] for n, moves in zip(coords.free, moving) if not moves}
    reduced = replace(coords, fixed={**coords.fixed, **held})
    found = covariance(reduced, fit.problem.objective, fit.u[moving], fit.problem.weights)
    # In units of their errors: a parameter that is not identified has a huge one, beside which
    # rounding would make the others' covariance indefinite.
    errors = np.maximum(found.errors, 1e-150)
    together = found.matrix / errors[:, None] / errors[None, :]
    center = np.zeros(len(errors))
    noise = rng.multivariate_normal(center, together, count, method="eigh", check_valid="ignore")
    drawn[:, moving] += errors * noise
    return coords.inside(drawn)


def _stuck(fit: Fitted) -> np.ndarray:
    """Returns the mask (p,) of coordinates on a limit, where no parabola describes them."""
    low, high = fit.problem.coords.limits
    near = 1e-6 * np.minimum(high - low, 1.0)
    return (fit.u <= low + near) | (fit.u >= high - near)


def _agrees(fit: Fitted, u: np.ndarray) -> np.ndarray:
    """Returns the mask of draws whose likelihood ratio is one of a normal draw's."""
    from scipy.special import chdtri

    problem, cov = fit.problem, fit.covariance
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        residual = problem.objective.residual(problem.coords.predict(u), problem.coords.y)
        value = np.array([problem.objective.value(r, problem.weights) for r in residual])
    ratio = 2 * (value - fit.objective) / max(cov.tau2 / cov.kappa, 1e-300)
    # A fit without noise has a ratio of rounding errors: there is nothing to contradict.
    exact = cov.scale < 1e-12
    return (ratio <= chdtri(len(fit.free), _LOST)) | exact
