"""Coordinates in which a law is fitted: free numbers only, positive ones as logarithms, centered.

A law that is a sum of terms is steered by the size of each term at the geometric center of the
data: instead of ``log c_k`` the fit moves ``log c_k + mean_i log phi_k(x_i)``. For a power law this
is the replacement of ``a`` by ``a - alpha * mean(log N)``, which takes the correlation between
amplitude and exponent from 1.000 to almost nothing and makes the fit indifferent to units.

Derivatives are taken by the complex step, exact to rounding, from the law's only formula.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from scaling.laws import Law, Param

#: The smallest and the largest contribution of a term that is searched, relative to the target.
_SMALLEST, _LARGEST = 1e-8, 1e4
_STEP = 1e-30


@dataclass(frozen=True, kw_only=True, eq=False)
class Coordinates:
    """The map between free coordinates u (..., p) and natural parameters of a law.

    Args:
        law: the law, bound to its labels.
        x: predictor columns (n,) of the rows that are fitted.
        y: the target (n,).
        fixed: parameters held at a natural value.
        ties: groups of parameters that share one value; the first of each group is free.
        bounds: natural bounds that replace those of the law.
        centered_terms: False moves plain logarithms of the coefficients, as the literature does.
    """

    law: Law
    x: Mapping[str, np.ndarray]
    y: np.ndarray
    fixed: Mapping[str, float] = field(default_factory=dict)
    ties: Sequence[Sequence[str]] = ()
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    centered_terms: bool = True

    @cached_property
    def followers(self) -> dict[str, str]:
        """Tied parameters other than the first of their group, with that first one."""
        return {name: group[0] for group in self.ties for name in group[1:]}

    @cached_property
    def held(self) -> dict[str, float]:
        """All parameters that stay at a natural value."""
        own = {p.name: p.fixed for p in self.law.params if p.fixed is not None}
        released = {name for group in self.ties for name in group} | set(self.bounds)
        return {k: v for k, v in own.items() if k not in released} | dict(self.fixed)

    @cached_property
    def free(self) -> tuple[str, ...]:
        """Names of the coordinates, in the law's order."""
        return tuple(n for n in self.law.names if n not in self.held and n not in self.followers)

    @cached_property
    def coefficients(self) -> tuple[str, ...]:
        """Names of the coefficients of the law's terms."""
        if self.law.terms is None:
            return ()
        ones = dict.fromkeys(self.law.names, 1.0)
        return tuple(self.law.terms(ones, self.x, np))

    @cached_property
    def centered(self) -> frozenset[str]:
        """Coefficients measured at the center: free, untied, without bounds in natural units."""
        if not self.centered_terms:
            return frozenset()
        tied = {name for group in self.ties for name in group}
        names = set(self.coefficients) & set(self.free)
        return frozenset(n for n in names if n not in tied and n not in self.bounds)

    def _param(self, name: str) -> Param:
        return self.law.param(name)

    @cached_property
    def limits(self) -> np.ndarray:
        """Lower and upper bounds (2, p) of the coordinates."""
        rows = []
        for name in self.free:
            if name in self.centered:
                size = np.median(np.abs(self.y))
                rows.append((np.log(_SMALLEST * size), np.log(_LARGEST * size)))
                continue
            lo, hi = self.bounds.get(name, self._param(name).bounds)
            if self._param(name).log:
                lo = np.log(max(lo, 1e-300))
                hi = np.log(hi) if np.isfinite(hi) else 690.0
            rows.append((lo, hi))
        return np.asarray(rows, float).reshape(-1, 2).T

    def _values(self, u: np.ndarray) -> dict[str, np.ndarray]:
        """Natural values (..., 1) of everything but centered coefficients, which stay as in u."""
        values: dict[str, np.ndarray] = {k: np.asarray(v) for k, v in self.held.items()}
        for j, name in enumerate(self.free):
            column = u[..., j : j + 1]
            as_log = self._param(name).log and name not in self.centered
            values[name] = np.exp(column) if as_log else column
        for name, leader in self.followers.items():
            values[name] = values[leader]
        return values

    def predict(self, u: np.ndarray) -> np.ndarray:
        """Returns predictions (..., n) of the fitted rows at coordinates u (..., p)."""
        values = self._values(u)
        if self.law.terms is None:
            assert self.law.formula is not None
            return self.law.formula(values, self.x, np)
        total = 0.0
        for name, log_phi in self.law.terms(values, self.x, np).items():
            log_phi = np.asarray(log_phi)
            if name in self.centered:
                t = log_phi - center(log_phi) + values[name]
            else:
                sign = -1 if name in self.law.inverse else 1
                t = log_phi + sign * np.log(values[name])
            total = total + np.exp(np.where(np.real(t) < 300, t, 300.0))
        return total + np.zeros(len(self.y))

    def prediction_and_jacobian(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns predictions (..., n) and their derivatives (..., p, n) with respect to u."""
        p = len(self.free)
        steps = u[..., None, :] + 1j * _STEP * np.eye(p)
        out = self.predict(steps)
        return self.predict(u), np.imag(out) / _STEP

    def natural(self, u: np.ndarray) -> dict[str, np.ndarray]:
        """Returns natural parameters, each of the shape of u without its last axis."""
        values = self._values(u)
        if self.law.terms is not None:
            for name, log_phi in self.law.terms(values, self.x, np).items():
                if name in self.centered:
                    sign = -1 if name in self.law.inverse else 1
                    values[name] = np.exp(sign * (values[name] - center(np.asarray(log_phi))))
        shape = u.shape[:-1]
        return {n: np.broadcast_to(_last(values[n]), shape) for n in self.law.names}

    def coordinates(self, params: Mapping[str, float]) -> np.ndarray:
        """Returns the coordinates (p,) of natural parameters, moved inside the limits."""
        full = {n: np.asarray(v, float) for n, v in self.law.complete(params).items()}
        u = np.empty(len(self.free))
        phi = {} if self.law.terms is None else self.law.terms(full, self.x, np)
        with np.errstate(divide="ignore"):
            for j, name in enumerate(self.free):
                value = float(full[name])
                if name in self.centered:
                    sign = -1 if name in self.law.inverse else 1
                    u[j] = sign * np.log(value) + float(center(np.asarray(phi[name])).item())
                else:
                    u[j] = np.log(value) if self._param(name).log else value
        return self.inside(u)

    def inside(self, u: np.ndarray) -> np.ndarray:
        """Returns u moved strictly inside the limits, as the optimizer wants it."""
        lo, hi = self.limits
        margin = 1e-9 * np.minimum(hi - lo, 1.0)
        return np.clip(u, lo + margin, hi - margin)


def center(log_phi: np.ndarray) -> np.ndarray:
    """Mean over the rows in which the term acts; a term may be exactly zero in others."""
    if log_phi.ndim == 0:
        return log_phi
    acts = np.isfinite(log_phi)
    if acts.all():
        return log_phi.mean(-1, keepdims=True)
    count = np.maximum(acts.sum(-1, keepdims=True), 1)
    return np.where(acts, log_phi, 0.0).sum(-1, keepdims=True) / count


def _last(value: np.ndarray) -> np.ndarray:
    return value if value.ndim == 0 else value[..., 0]
