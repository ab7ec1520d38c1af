"""Intervals by the method that is asked for: bootstrap percentiles, delta, or profile."""

import numpy as np

from scaling.uncertainty import delta
from scaling.uncertainty.covariance import quantile_t
from scaling.uncertainty.fitted import Fitted

METHODS = ("auto", "bootstrap", "delta", "profile")


def choose(fit: Fitted, method: str, level: float = 0.5) -> str:
    """Returns the method that "auto" stands for.

    Raises:
        ValueError: the method or the level is unknown, or no bootstrap was drawn.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}.")
    if not 0 < level < 1:
        raise ValueError(f"An interval's level must be between 0 and 1, got {level}.")
    if method == "auto":
        return "bootstrap" if fit.draws is not None else "delta"
    if method == "bootstrap" and fit.draws is None:
        raise ValueError("No bootstrap was drawn; fit with bootstrap=1000, or ask for 'delta'.")
    return method


def central(fit: Fitted, values: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns bounds that hold the true quantity with probability ``level``.

    Draws scatter a little less than estimates do, and the scatter is itself estimated: plain
    percentiles of few rows cover less than they say. Bootstrap draws of n rows (or groups) give
    the percentiles at which a normal mean's interval would be Student's: the expanded percentile
    interval of Hesterberg 2014, "What teachers should know about the bootstrap", arXiv:1411.5279.
    Draws of the normal approximation need only the quantile of Student's t.

    Args:
        fit: the fit that was sampled.
        values: quantities (r, ...) computed from ``fit.sample()``; NaN where one does not exist.
        level: coverage, between 0 and 1.
    """
    tail = 50 * (1 - _share(fit, level))
    # The k-th of r draws is the k/(r+1) quantile on average: the usual rule cuts tails of a few
    # hundred draws too short.
    low, high = np.nanpercentile(values, [tail, 100 - tail], axis=0, method="weibull")
    return low, high


def _share(fit: Fitted, level: float) -> float:
    """Returns the central share of the draws whose range covers with probability ``level``."""
    from scipy.special import ndtr

    if fit.draws is None:
        return float(2 * ndtr(quantile_t(level, fit.covariance.dof)) - 1)
    units = fit.draws.units
    return float(2 * ndtr(np.sqrt(units / (units - 1)) * quantile_t(level, units - 1)) - 1)


def parameter_intervals(fit: Fitted, level: float, method: str) -> dict[str, tuple[float, float]]:
    """Returns an interval for every parameter; held ones have no width, tied ones share theirs."""
    method = choose(fit, method, level)
    if method == "bootstrap":
        sample = fit.sample()
        pairs = {name: central(fit, sample[name], level) for name in fit.free}
        found = {name: (float(a), float(b)) for name, (a, b) in pairs.items()}
    elif method == "delta":
        found = delta.parameter_interval(fit, level)
    else:
        found = {}
        for name in fit.free:
            curve = fit.profile(name, level)
            found[name] = (curve.lower, curve.upper)
    followers = fit.problem.coords.followers
    out = {}
    for name in fit.law.names:
        lone = (fit.params[name], fit.params[name])
        out[name] = found.get(name, found.get(followers.get(name, ""), lone))
    return {k: (float(a), float(b)) for k, (a, b) in out.items()}


def standard_errors(fit: Fitted, method: str) -> dict[str, float]:
    """Returns standard errors of the free parameters in natural units."""
    if choose(fit, method) == "bootstrap":
        sample = fit.sample()
        return {name: float(np.std(sample[name], ddof=1)) for name in fit.free}
    error = np.sqrt(np.diag(delta.natural_covariance(fit)))
    logs = delta.scales(fit)
    return {
        name: float(e * fit.params[name]) if is_log else float(e)
        for name, is_log, e in zip(fit.free, logs, error)
    }


def prediction_interval(
    fit: Fitted, x: dict, level: float, kind: str, method: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns lower and upper bounds (m,) of predictions.

    Raises:
        ValueError: the kind or the method is unknown.
    """
    if kind not in ("mean", "new_run"):
        raise ValueError(f"kind must be 'mean' or 'new_run', got {kind!r}.")
    method = choose(fit, method, level)
    if method == "profile":
        raise ValueError("Predictions have bootstrap and delta intervals, not profiles.")
    on_logs = fit.problem.objective.on_logs
    value = np.asarray(fit.law.predict(fit.params, x))
    cov = fit.covariance
    if method == "bootstrap":
        sample = {k: v[:, None] for k, v in fit.sample().items()}
        draws = np.asarray(fit.law.predict(sample, x))
        if kind == "new_run":
            noise = np.random.default_rng(0).normal(0, cov.scale, draws.shape)
            draws = draws * np.exp(noise) if on_logs else draws + noise
        return central(fit, draws, level)
    error = delta.prediction_errors(fit, x)
    if kind == "new_run":
        error = np.hypot(error, cov.scale)
    half = quantile_t(level, cov.dof) * error
    if on_logs:
        return value * np.exp(-half), value * np.exp(half)
    return value - half, value + half
