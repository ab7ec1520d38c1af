"""Case and cluster bootstrap: refits of resampled rows, warm-started from the optimum.

Resampling is expressed as row weights, so a refit is one polish of the same problem. Draws are
fixed by the seed before any work starts: the number of workers changes nothing. Workers are plain
child processes that rebuild the law by name (``scaling.uncertainty.worker``); a law that is not
built in runs in this process, because a formula cannot be sent.
"""

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from scaling.fitting.coordinates import Coordinates
from scaling.fitting.objectives import Objective
from scaling.fitting.polish import polish
from scaling.laws.registry import recipe

#: Work, in seconds, below which starting workers costs more than it saves.
_WORTHWHILE = 3.0
_TRIAL = 6


@dataclass(frozen=True, kw_only=True, eq=False)
class Draws:
    """Bootstrap draws.

    Args:
        u: coordinates (r, p).
        objective: the objective (r,) of each draw.
        converged: whether each draw (r,) converged.
        seed: the seed that fixed the resampling.
        units: number of rows, or of groups, that were resampled.
    """

    u: np.ndarray
    objective: np.ndarray
    converged: np.ndarray
    seed: int
    units: int

    def __len__(self) -> int:
        return len(self.u)


def resampling_weights(
    n: int, count: int, seed: int, groups: np.ndarray | None = None
) -> np.ndarray:
    """Returns how often each row (count, n) is drawn; whole groups are drawn where given."""
    rng = np.random.default_rng(seed)
    if groups is None:
        return rng.multinomial(n, np.full(n, 1 / n), size=count).astype(float)
    names, member = np.unique(groups, return_inverse=True)
    k = len(names)
    if k < 2:
        raise ValueError(f"A cluster bootstrap needs at least 2 groups, got {k}.")
    return rng.multinomial(k, np.full(k, 1 / k), size=count).astype(float)[:, member]


def refits(
    coords: Coordinates, objective: Objective, start: np.ndarray, weights: np.ndarray
) -> Iterator[tuple[np.ndarray, float, bool]]:
    """Yields (coordinates, objective, converged) of one polish per row of ``weights`` (r, n)."""
    for w in weights:
        end = polish(coords, objective, start, w, max_evaluations=100, tolerance=1e-9)
        yield end.u, end.objective, end.converged


def bootstrap(
    coords: Coordinates,
    objective: Objective,
    start: np.ndarray,
    count: int,
    *,
    seed: int = 0,
    groups: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Draws:
    """Draws ``count`` bootstrap refits.

    Args:
        coords: the coordinates of the fit.
        objective: what each refit minimizes.
        start: the optimum (p,) of all rows.
        count: number of draws.
        seed: fixes the resampling.
        groups: labels (n,); whole groups are resampled together.
        weights: weights (n,) of the fit, which multiply the resampling.
        workers: processes; the number of usable cores by default, 1 for none.
        progress: called with the number of draws that have just finished.

    Returns:
        The draws, in the order of the resampling.
    """
    drawn = resampling_weights(len(coords.y), count, seed, groups)
    if weights is not None:
        drawn = drawn * weights
    tell = progress or (lambda done: None)
    workers = workers or usable_cores()
    began = time.perf_counter()
    out = _here(coords, objective, start, drawn[:_TRIAL], tell)
    left = (time.perf_counter() - began) / max(len(out), 1) * (count - len(out))
    rest = drawn[_TRIAL:]
    known = recipe(coords.law)
    if workers > 1 and left > _WORTHWHILE and known is not None:
        out += _in_workers(coords, objective, start, rest, workers, known, tell)
    else:
        out += _here(coords, objective, start, rest, tell)
    u, value, converged = map(np.array, zip(*out, strict=True))
    units = len(coords.y) if groups is None else len(np.unique(groups))
    return Draws(u=u, objective=value, converged=converged, seed=seed, units=units)


def _here(coords, objective, start, weights, tell) -> list:
    """Refits in this process."""
    out = []
    for end in refits(coords, objective, start, weights):
        out.append(end)
        tell(1)
    return out


def usable_cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _in_workers(coords, objective, start, weights, workers, known, tell) -> list:
    problem = {
        "law": known,
        "x": dict(coords.x),
        "y": coords.y,
        "fixed": dict(coords.fixed),
        "ties": [list(group) for group in coords.ties],
        "bounds": dict(coords.bounds),
        "centered_terms": coords.centered_terms,
        "objective": objective,
        "start": start,
    }
    shares = np.array_split(np.arange(len(weights)), workers)
    with ThreadPoolExecutor(workers) as pool:
        jobs = [pool.submit(_run_worker, problem | {"weights": weights[s]}, tell) for s in shares]
        return [end for job in jobs for end in job.result()]


def _run_worker(problem: dict, tell: Callable[[int], None]) -> list:
    """Runs one child process; reads its results as they come."""
    paths = os.pathsep.join(p for p in sys.path if p)
    # One thread per worker: the matrices are small, and the workers share the cores.
    quiet = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    env = os.environ | quiet | {"PYTHONPATH": paths}
    command = [sys.executable, "-m", "scaling.uncertainty.worker"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        pickle.dump(problem, child.stdin)
        child.stdin.close()
        out = []
        try:
            for _ in range(len(problem["weights"])):
                out.append(pickle.load(child.stdout))
                tell(1)
        except EOFError:
            said = child.stderr.read().decode(errors="replace").strip()
            raise RuntimeError(f"A bootstrap worker ended early: {said or 'no message'}") from None
        return out
