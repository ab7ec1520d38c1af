"""The door of fitting: from a table and a law to a result that says how far to trust it.

The default method seeds by variable projection and polishes the five best seeds by robust least
squares. ``method="grid"`` reproduces the literature's 4500 starts, ``method="start"`` polishes one
given point. What happened on the way is in the result: every start, every bound, every doubt.
"""

from collections.abc import Callable, Mapping
from typing import Any

from scaling.findings import Finding
from scaling.fitting import options
from scaling.fitting.diagnosis import diagnose
from scaling.fitting.grid import grid_ends
from scaling.fitting.objectives import Objective
from scaling.fitting.polish import End, polish
from scaling.fitting.problem import Problem, pose
from scaling.fitting.result import FitResult, Start
from scaling.fitting.seeding import seeds
from scaling.laws import Law
from scaling.progress import bar
from scaling.tables import identifiability
from scaling.tables.dataset import Dataset
from scaling.uncertainty.bootstrap import Draws
from scaling.uncertainty.bootstrap import bootstrap as draw


def solve(
    problem: Problem,
    method: str = "vp",
    start: Mapping[str, float] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[End]:
    """Returns where the starts of a method ended, best first.

    Raises:
        ValueError: the method is unknown, or has no finite starting point.
    """
    coords, objective, weights = problem.coords, problem.objective, problem.weights
    if method not in options.METHODS:
        raise ValueError(f"method must be one of {options.METHODS}, got {method!r}.")
    if method == "start" and start is None:
        raise ValueError("method='start' needs start, a value for every parameter.")
    if method == "grid":
        ends = grid_ends(coords, objective, weights, progress)
    else:
        first = [coords.coordinates(coords.held | dict(start))] if start is not None else []
        found = first if method == "start" else first + seeds(coords, objective)
        if not found:
            raise ValueError(
                f"Law {coords.law.name!r} has no finite starting point on these rows; pass start."
            )
        ends = [polish(coords, objective, u, weights, max_evaluations=100) for u in found]
        best = min(range(len(ends)), key=lambda i: ends[i].objective)
        if not ends[best].converged:
            ends[best] = polish(coords, objective, ends[best].u, weights, max_evaluations=1000)
    return sorted(ends, key=lambda end: end.objective)


def fit(
    ds: Dataset,
    law: str | Law,
    *,
    objective: str | Objective | None = None,
    delta: float = 1e-3,
    asymmetry: float = 2.0,
    method: str = "vp",
    start: Mapping[str, float] | None = None,
    fixed: Mapping[str, float] | None = None,
    tie: Any = (),
    bounds: Mapping[str, Any] | None = None,
    weights: Any = None,
    group: Any = None,
    bootstrap: int = 0,
    seed: int = 0,
    workers: int | None = None,
    on_bad: str = "raise",
    center: bool = True,
    progress: bool = False,
) -> FitResult:
    """Fits a law to a results table.

    Args:
        ds: the table.
        law: a registered name, or a ``Law``.
        objective: "huber-log", "log-l2", "l2", "huber-lin" or "mae-asym"; the law's own by default.
        delta: the Huber threshold, in units of the residual.
        asymmetry: extra weight of predictions above the target, for "mae-asym".
        method: "vp", "grid" (the literature's 4500 starts) or "start" (one polish).
        start: natural parameters to start from, in addition to the seeds or instead of them.
        fixed: parameters held at a value.
        tie: a group of parameters that share one value, or several groups.
        bounds: natural bounds by parameter, None for an open side.
        weights: a column's name or an array (n,) that multiplies the rows' terms.
        group: a column's name or labels (n,) that are resampled together by the bootstrap.
        bootstrap: number of bootstrap draws.
        seed: fixes the bootstrap; nothing else is random.
        workers: processes of the bootstrap; the number of usable cores by default.
        on_bad: "raise" or "drop" rows without a value.
        center: False moves uncentered coefficients, for comparison with the literature.
        progress: whether to show a progress bar on stderr.

    Returns:
        Parameters, objective, covariance, draws, starts and findings.

    Raises:
        ValueError: a column, a parameter or an option does not exist, there are fewer rows than
            parameters, or a predictor does not vary.
    """
    problem = pose(
        ds, law, objective=objective, delta=delta, asymmetry=asymmetry, fixed=fixed, tie=tie,
        bounds=bounds, weights=weights, on_bad=on_bad, center=center,
    )  # fmt: skip
    _refuse_hopeless(problem)
    groups = options.groups(problem.ds, group)
    with bar("starts", 4500 if method == "grid" and progress else 0) as tell:
        ends = solve(problem, method, start, tell)
    with bar("bootstrap", bootstrap if progress else 0) as tell:
        draws = _draws(problem, ends[0], bootstrap, seed, groups, workers, tell)
    return _result(problem, ends, draws, method)


def _draws(
    problem: Problem,
    best: End,
    count: int,
    seed: int,
    groups: Any,
    workers: int | None,
    tell: Callable[[int], None],
) -> Draws | None:
    """Returns the refits of the bootstrap, started at the best end; None where none are asked."""
    if not count:
        return None
    return draw(
        problem.coords, problem.objective, best.u, count, seed=seed, groups=groups,
        weights=problem.weights, workers=workers, progress=tell,
    )  # fmt: skip


def _refuse_hopeless(problem: Problem) -> None:
    coords = problem.coords
    n, p = len(coords.y), len(coords.free)
    if p == 0:
        raise ValueError(
            f"Every parameter of {coords.law.name!r} is fixed, so nothing is left to fit; "
            "free one, or predict with the law."
        )
    if n < p:
        raise ValueError(
            f"{n} row(s) cannot determine the {p} free parameters of {coords.law.name!r}; "
            "add runs, fix parameters, or choose a smaller law."
        )
    for finding in identifiability.constants(problem.ds, coords, problem.objective):
        raise ValueError(finding.message)


def _result(problem: Problem, ends: list[End], draws, method: str) -> FitResult:
    coords, best = problem.coords, ends[0]
    natural = coords.natural(best.u)
    starts = tuple(
        Start(objective=e.objective, converged=e.converged, evaluations=e.evaluations,
              moved=e.moved, gradient=e.gradient)
        for e in ends
    )  # fmt: skip
    result = FitResult(
        law=coords.law,
        params={name: float(natural[name]) for name in coords.law.names},
        objective=best.objective,
        converged=best.converged,
        problem=problem,
        u=best.u,
        starts=starts,
        draws=draws,
        method=method,
        warnings=(),
    )
    findings: tuple[Finding, ...] = tuple(diagnose(result, ends))
    return result.with_warnings(findings)
