"""Profile likelihood: how the minimum rises while one parameter is held and the others refit.

For least squares the interval is where the sum of squares stays below Fisher's F; for Huber it is
the quasi-likelihood ratio with the sandwich factor ``tau^2 / kappa``. A profile that never reaches
the threshold on one side is open there: the data do not bound the parameter.
"""

from dataclasses import dataclass, replace

import numpy as np

from scaling.fitting.polish import polish
from scaling.uncertainty.covariance import quantile_t
from scaling.uncertainty.fitted import Fitted

#: Steps outward, each longer than the one before, and how often to begin anew with short ones.
_STEPS, _GROWTH, _RESTARTS = 30, 1.5, 5
_BISECTIONS = 14


@dataclass(frozen=True, kw_only=True, eq=False)
class Profile:
    """A profile of one parameter.

    Args:
        name: the parameter.
        values: natural values (m,) that were tried, sorted.
        ratio: the likelihood ratio (m,) at each, 0 at the optimum.
        threshold: the ratio at which the interval ends.
        lower: the lower end, or the parameter's bound where the profile is open.
        upper: the upper end, likewise.
        open_lower: whether the lower side never reached the threshold.
        open_upper: whether the upper side never did.
    """

    name: str
    values: np.ndarray
    ratio: np.ndarray
    threshold: float
    lower: float
    upper: float
    open_lower: bool
    open_upper: bool


class _Walk:
    """The ratio as a function of one coordinate, each refit started from its neighbors.

    The neighbor toward the optimum comes first: one farther out may have ended in another valley,
    and would hand its mistake on.
    """

    def __init__(self, fit: Fitted, name: str):
        self.coords = fit.problem.coords
        self.objective, self.weights = fit.problem.objective, fit.problem.weights
        self.name, self.log = name, fit.law.param(name).log
        self.best, self.params = fit.objective, fit.params
        cov = fit.covariance
        self.unit = cov.tau2 / cov.kappa
        self.origin = self.to_scale(fit.params[name])
        self.seen: dict[float, tuple[float, np.ndarray | None]] = {self.origin: (0.0, None)}

    def to_scale(self, value: float) -> float:
        return float(np.log(value)) if self.log else float(value)

    def to_natural(self, t: float) -> float:
        return float(np.exp(t)) if self.log else float(t)

    def __call__(self, t: float) -> float:
        if t in self.seen:
            return self.seen[t][0]
        held = {**self.coords.fixed, self.name: self.to_natural(t)}
        coords = replace(self.coords, fixed=held)
        plain = coords.coordinates(self.params | {self.name: self.to_natural(t)})
        inner = [s for s in self.seen if min(t, self.origin) <= s <= max(t, self.origin)]
        near = {min(group, key=lambda s: abs(s - t)) for group in (inner, self.seen)}
        starts = [plain, *(u for s in sorted(near) if (u := self.seen[s][1]) is not None)]
        ends = [polish(coords, self.objective, s, self.weights, tolerance=1e-10) for s in starts]
        end = min(ends, key=lambda e: e.objective)
        ratio = 2 * max(end.objective - self.best, 0.0) / max(self.unit, 1e-300)
        self.seen[t] = (ratio, end.u)
        return ratio

    def forget_beyond(self, edge: float, sign: int) -> None:
        """Drops what was found farther out than ``edge``."""
        self.seen = {t: value for t, value in self.seen.items() if sign * (t - edge) <= 0}


def _edge(walk: _Walk, sign: int, step: float, limit: float, threshold: float):
    """Returns where the ratio crosses the threshold on one side, and whether it never does."""
    inside, outside = walk.origin, None
    for restart in range(_RESTARTS):
        width = step if restart == 0 else step / 50
        inside, outside = _outward(walk, sign, inside, width, limit, threshold)
        if outside is None:
            return limit, True
        for _ in range(_BISECTIONS):
            middle = (inside + outside) / 2
            if walk(middle) > threshold:
                outside = middle
            else:
                inside = middle
        if walk(inside) > 0.95 * threshold:
            break
        # A jump is no crossing: the refit outside lost the valley. Follow it in smaller steps.
        walk.forget_beyond(inside, sign)
    assert outside is not None
    return (inside + outside) / 2, False


def _outward(walk: _Walk, sign: int, start: float, width: float, limit: float, threshold: float):
    """Returns the last point below the threshold and the first above it, None where none is."""
    inside = start
    for _ in range(_STEPS):
        t = inside + sign * width
        t = min(t, limit) if sign > 0 else max(t, limit)
        if walk(t) > threshold:
            return inside, t
        inside = t
        if t == limit:
            break
        width *= _GROWTH
    return inside, None


def profile(fit: Fitted, name: str, level: float = 0.95) -> Profile:
    """Profiles one free parameter.

    Args:
        fit: the fit.
        name: a free parameter.
        level: coverage of the interval.

    Returns:
        The profile and its interval.

    Raises:
        ValueError: the parameter is not free.
    """
    if name not in fit.free or name in fit.problem.coords.followers.values():
        raise ValueError(f"Only free, untied parameters have a profile: {fit.free}; got {name!r}.")
    walk = _Walk(fit, name)
    from scaling.uncertainty.delta import natural_covariance

    error = float(np.sqrt(natural_covariance(fit)[fit.free.index(name)][fit.free.index(name)]))
    step = min(max(error, 1e-6), 1.0) / 2
    threshold = quantile_t(level, fit.covariance.dof) ** 2
    low, high = fit.problem.coords.bounds.get(name, fit.law.param(name).bounds)
    low = walk.to_scale(max(low, 1e-30)) if walk.log else low
    high = walk.to_scale(min(high, 1e30)) if walk.log else min(high, 1e30)
    # A held value on the bound itself may make a logarithm infinite.
    margin = 1e-9 * max(1.0, abs(walk.origin))
    lower, open_lower = _edge(walk, -1, step, low + margin, threshold)
    upper, open_upper = _edge(walk, 1, step, high - margin, threshold)
    order = sorted(walk.seen)
    return Profile(
        name=name,
        values=np.array([walk.to_natural(t) for t in order]),
        ratio=np.array([walk.seen[t][0] for t in order]),
        threshold=threshold,
        lower=walk.to_natural(lower),
        upper=walk.to_natural(upper),
        open_lower=open_lower,
        open_upper=open_upper,
    )
