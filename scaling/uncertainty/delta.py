"""The delta method: derivatives of parameters and predictions, exact by the complex step."""

from collections.abc import Callable
from typing import Any

import numpy as np

from scaling.uncertainty.covariance import quantile_t
from scaling.uncertainty.fitted import Fitted

_STEP = 1e-30


def gradient(fit: Fitted, function: Callable[[dict], Any]) -> np.ndarray:
    """Returns derivatives (p, ...) of ``function(params)`` in the coordinates of the fit.

    Args:
        fit: the fit at whose optimum the derivatives are taken.
        function: takes natural parameters of shape (p, 1) and returns values (p, m); it must be
            analytic, since its parameters are complex.
    """
    p = len(fit.u)
    steps = fit.u + 1j * _STEP * np.eye(p)
    params = fit.problem.coords.natural(steps)
    out = np.asarray(function({k: np.asarray(v)[:, None] for k, v in params.items()}))
    return np.imag(np.broadcast_to(out, (p, out.shape[-1]))) / _STEP


def scales(fit: Fitted) -> list[bool]:
    """Whether each free parameter is judged on a logarithmic scale."""
    return [fit.law.param(name).log for name in fit.free]


def natural_covariance(fit: Fitted) -> np.ndarray:
    """Returns the covariance (p, p) of free parameters, of logarithms where they are positive."""
    logs = scales(fit)

    def values(params):
        columns = [np.log(params[n]) if g else params[n] for n, g in zip(fit.free, logs)]
        return np.concatenate(columns, axis=-1)

    jac = gradient(fit, values)
    return jac.T @ fit.covariance.matrix @ jac


def parameter_interval(fit: Fitted, level: float) -> dict[str, tuple[float, float]]:
    """Returns Student's t intervals, symmetric on the scale on which a parameter is fitted."""
    error = np.sqrt(np.diag(natural_covariance(fit)))
    half = quantile_t(level, fit.covariance.dof) * error
    out = {}
    for name, is_log, width in zip(fit.free, scales(fit), half):
        value = fit.params[name]
        if is_log:
            factor = np.exp(min(width, 300.0))
            out[name] = (value / factor, value * factor)
        else:
            low, high = fit.law.param(name).bounds
            out[name] = (max(value - width, low), min(value + width, high))
    return out


def prediction_errors(fit: Fitted, x: dict) -> np.ndarray:
    """Returns standard errors (m,) of predictions, of their logarithm for objectives on logs."""
    on_logs = fit.problem.objective.on_logs

    def values(params):
        out = fit.law.predict(params, x)
        return np.log(out) if on_logs else out

    jac = gradient(fit, values)
    return np.sqrt(np.einsum("pm,pq,qm->m", jac, fit.covariance.matrix, jac))
