"""What a fit returns: parameters with their uncertainty, predictions, and every doubt.

The result keeps the problem that it solved, so that intervals, profiles and further draws need
nothing else. How uncertainties are computed is in ``scaling.uncertainty``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scaling.findings import Finding
from scaling.fitting.problem import Problem
from scaling.laws import Law
from scaling.uncertainty.bootstrap import Draws
from scaling.uncertainty.covariance import Covariance, covariance
from scaling.uncertainty.normal import normal_draws


@dataclass(frozen=True, kw_only=True)
class Start:
    """How one start went: objective at its end, whether it converged, how far it moved."""

    objective: float
    converged: bool
    evaluations: int
    moved: float
    gradient: float


@dataclass(frozen=True, kw_only=True, eq=False)
class FitResult:
    """A fitted law.

    Args:
        law: the law, with the labels of the table.
        params: natural parameters.
        objective: the minimum, a sum over rows.
        converged: whether the best start met a tolerance.
        problem: the problem that was solved.
        u: the optimum in the coordinates of the problem.
        starts: every start, best first.
        draws: bootstrap draws, or None.
        method: how it was solved.
        warnings: findings about the design and the fit.
    """

    law: Law
    params: dict[str, float]
    objective: float
    converged: bool
    problem: Problem
    u: np.ndarray
    starts: tuple[Start, ...]
    draws: Draws | None
    method: str
    warnings: tuple[Finding, ...]

    def __repr__(self) -> str:
        values = ", ".join(f"{k}={v:.6g}" for k, v in self.params.items())
        return f"FitResult({self.law.name}: {values}; objective={self.objective:.8g}, n={self.n})"

    def with_warnings(self, warnings: tuple[Finding, ...]) -> "FitResult":
        """Returns the same fit with other findings."""
        return replace(self, warnings=tuple(warnings))

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.problem.coords.y)

    @property
    def free(self) -> tuple[str, ...]:
        """Names of the parameters that were fitted."""
        return self.problem.coords.free

    @property
    def dropped(self) -> tuple[tuple[int, str], ...]:
        """Rows that were left out: line and reason."""
        return self.problem.ds.dropped

    @property
    def residuals(self) -> np.ndarray:
        """Residuals (n,) in the objective's own terms."""
        coords, objective = self.problem.coords, self.problem.objective
        return objective.residual(coords.predict(self.u), coords.y)

    @property
    def log_residuals(self) -> np.ndarray:
        """Log prediction minus log target (n,), whatever the objective."""
        coords = self.problem.coords
        return np.log(coords.predict(self.u)) - np.log(coords.y)

    @property
    def rms(self) -> float:
        """Root mean square of the log residuals."""
        return float(np.sqrt((self.log_residuals**2).mean()))

    @property
    def covariance(self) -> Covariance:
        """Covariance in the coordinates of the fit."""
        return covariance(self.problem.coords, self.problem.objective, self.u, self.problem.weights)

    @property
    def agreeing(self) -> int:
        """How many starts ended within 1e-6 of the best objective."""
        # Below this the rows are met to rounding, and relative differences mean nothing.
        exact = 1e-24 * self.n
        best = self.starts[0].objective
        return sum(s.objective <= best * (1 + 1e-6) + exact for s in self.starts)

    @property
    def corr(self) -> dict[tuple[str, str], float]:
        """Correlations of the natural parameters, logarithms where they are positive."""
        from scaling.uncertainty.delta import natural_covariance

        matrix = natural_covariance(self)
        error = np.sqrt(np.diag(matrix))
        names = self.free
        return {
            (a, b): float(matrix[i, j] / (error[i] * error[j]))
            for i, a in enumerate(names)
            for j, b in enumerate(names)
        }

    def ci(self, level: float = 0.95, method: str = "auto") -> dict[str, tuple[float, float]]:
        """Returns an interval for every parameter.

        Args:
            level: coverage, between 0 and 1.
            method: "bootstrap" (expanded percentiles), "delta" (Student's t), "profile"
                (likelihood), or "auto": the bootstrap where it was drawn, else delta.

        Raises:
            ValueError: the method is unknown, or no bootstrap was drawn.
        """
        from scaling.uncertainty.intervals import parameter_intervals

        return parameter_intervals(self, level, method)

    def errors(self, method: str = "auto") -> dict[str, float]:
        """Returns a standard error for every free parameter, in natural units."""
        from scaling.uncertainty.intervals import standard_errors

        return standard_errors(self, method)

    def predict(
        self,
        points: Any,
        ci: float | None = None,
        kind: str = "mean",
        method: str = "auto",
    ) -> Any:
        """Predicts the target.

        Args:
            points: predictor columns by name, or a Dataset.
            ci: coverage of an interval; None for none.
            kind: "mean" for the law itself, "new_run" for one more noisy run.
            method: as in ``ci``.

        Returns:
            Predictions (n,), or (predictions, lower, upper) where ``ci`` is given.
        """
        from scaling.uncertainty.intervals import prediction_interval

        x = self.columns(points)
        value = np.asarray(self.law.predict(self.params, x))
        if ci is None:
            return value
        lower, upper = prediction_interval(self, x, ci, kind, method)
        return value, lower, upper

    def columns(self, points: Any) -> dict[str, np.ndarray]:
        """Returns the law's predictors out of a mapping or a Dataset."""
        from scaling.tables.dataset import Dataset

        if isinstance(points, Dataset):
            return points.predictors(self.law)
        return {k: np.atleast_1d(v) for k, v in self.law.columns(points).items()}

    def sample(self, count: int = 1000, seed: int = 0) -> dict[str, np.ndarray]:
        """Returns draws of the natural parameters, each (count,).

        Bootstrap draws where there are any (all of them, whatever ``count``), else draws of the
        normal approximation that do not contradict the rows.
        """
        coords = self.problem.coords
        if self.draws is not None:
            return coords.natural(self.draws.u)
        return coords.natural(normal_draws(self, count, seed))

    def derived(
        self,
        quantity: str | Callable[..., Any],
        ci: float | None = None,
        **arguments: Any,
    ) -> Any:
        """Computes a quantity from the parameters, and its interval from the draws.

        Args:
            quantity: a name in ``law.derived``, or a function of (params, **arguments).
            ci: coverage of an interval; None for none.
            **arguments: what the quantity depends on, such as N or a format.

        Returns:
            The value, or (value, lower, upper). The interval transforms draws, never errors.

        Raises:
            ValueError: the law has no such quantity.
        """
        if callable(quantity):
            function = quantity
        elif quantity in self.law.derived:
            function = self.law.derived[quantity]
        else:
            raise ValueError(
                f"Law {self.law.name!r} derives {sorted(self.law.derived)}, got {quantity!r}."
            )
        value = function(self.params, **arguments)
        if ci is None:
            return value
        sample = self.sample()
        count = len(next(iter(sample.values())))
        rows: list[Mapping[str, float]] = [
            {k: float(v[i]) for k, v in sample.items()} for i in range(count)
        ]
        draws = np.array([function(row, **arguments) for row in rows], float)
        return value, *self.central(draws, ci)

    def central(self, values: np.ndarray, level: float) -> tuple[Any, Any]:
        """Returns the bounds of a quantity's interval out of its values for ``sample()``.

        Args:
            values: values (r, ...), one for every draw; NaN where the quantity does not exist.
            level: coverage, between 0 and 1.
        """
        from scaling.uncertainty.intervals import central

        return central(self, values, level)

    def profile(self, name: str, level: float = 0.95) -> Any:
        """Returns the profile likelihood of a parameter; see ``scaling.uncertainty.profile``."""
        from scaling.uncertainty.profile import profile

        return profile(self, name, level)
