"""What the computation of uncertainties needs of a fit: a result, seen from below.

``scaling.fitting.result.FitResult`` is such a fit; it stands above this package and asks it for
intervals, draws and profiles.
"""

from typing import Protocol

import numpy as np

from scaling.fitting.problem import Problem
from scaling.laws import Law
from scaling.uncertainty.bootstrap import Draws
from scaling.uncertainty.covariance import Covariance


class Fitted(Protocol):
    """A fitted law: its optimum, the problem that it solves, and its draws, if there are any."""

    @property
    def law(self) -> Law: ...

    @property
    def params(self) -> dict[str, float]: ...

    @property
    def objective(self) -> float: ...

    @property
    def problem(self) -> Problem: ...

    @property
    def u(self) -> np.ndarray: ...

    @property
    def draws(self) -> Draws | None: ...

    @property
    def free(self) -> tuple[str, ...]: ...

    @property
    def covariance(self) -> Covariance: ...

    def sample(self, count: int = 1000, seed: int = 0) -> dict[str, np.ndarray]: ...

    def profile(self, name: str, level: float = 0.95) -> "Profiled": ...


class Profiled(Protocol):
    """A profile likelihood: an interval needs its two ends."""

    @property
    def lower(self) -> float: ...

    @property
    def upper(self) -> float: ...
