"""Where a fit starts: variable projection over the nonlinear parameters only.

For every point of a grid over the nonlinear parameters the best nonnegative coefficients follow
from a small linear problem, solved exactly and for the whole grid at once. What is left to search
is a few exponents instead of all parameters, so a thousand points find the right valley where
thousands of starts in all parameters do not. Deterministic: no seed changes the result.
"""

import itertools
from dataclasses import replace

import numpy as np

from scaling.fitting.coordinates import Coordinates, center
from scaling.fitting.objectives import Objective
from scaling.fitting.polish import polish

#: Rows that seeding looks at; more change nothing about which valley is deepest.
_ROWS = 400


def low_discrepancy(count: int, dims: int) -> np.ndarray:
    """Returns points (count, dims) of the unit cube that fill it evenly.

    The additive recurrence of the generalized golden ratio (Roberts 2018).
    """
    ratio = 2.0
    for _ in range(64):
        ratio = (1 + ratio) ** (1 / (dims + 1))
    step = ratio ** -np.arange(1, dims + 1)
    return (0.5 + np.arange(1, count + 1)[:, None] * step) % 1.0


def unit_grid(dims: int) -> np.ndarray:
    """Returns the points of the unit cube that are searched: a grid up to 3 dimensions."""
    if dims == 0:
        return np.zeros((1, 0))
    if dims <= 3:
        side = {1: 48, 2: 24, 3: 14}[dims]
        axis = (np.arange(side) + 0.5) / side
        return np.stack(np.meshgrid(*[axis] * dims, indexing="ij"), -1).reshape(-1, dims)
    return low_discrepancy(min(2048 * (dims - 3), 8192), dims)


def nonnegative_least_squares(gram: np.ndarray, moment: np.ndarray, power: float):
    """Solves min_b |y - X b|^2 with b >= 0, for many small problems, by trying every support.

    Args:
        gram: X^T X, shape (g, k, k).
        moment: X^T y, shape (g, k).
        power: y^T y.

    Returns:
        Coefficients (g, k) and residual sums of squares (g,).
    """
    g, k = moment.shape
    best, rss = np.zeros((g, k)), np.full(g, power)
    scale = np.sqrt(np.maximum(np.einsum("gkk->gk", gram), 1e-300))
    gram = gram / scale[:, :, None] / scale[:, None, :] + 1e-13 * np.eye(k)
    moment = moment / scale
    for size in range(1, k + 1):
        for support in itertools.combinations(range(k), size):
            s = list(support)
            sub, rhs = gram[:, s][:, :, s], moment[:, s]
            b = np.linalg.solve(sub, rhs[..., None])[..., 0]
            left = power - 2 * (b * rhs).sum(-1) + np.einsum("gi,gij,gj->g", b, sub, b)
            better = (b >= 0).all(-1) & (left < rss)
            rss = np.where(better, left, rss)
            full = np.zeros((g, k))
            full[:, s] = b
            best = np.where(better[:, None], full, best)
    return best / scale, rss


def _search_values(coords: Coordinates, names: list[str]) -> dict[str, np.ndarray]:
    """Grid of natural values, each (g, 1), over the search ranges of ``names``."""
    unit = unit_grid(len(names))
    values = {}
    for j, name in enumerate(names):
        param = coords.law.param(name)
        lo, hi = param.search
        if name in coords.bounds:
            lo, hi = max(lo, coords.bounds[name][0]), min(hi, coords.bounds[name][1])
            lo, hi = (lo, hi) if lo < hi else coords.bounds[name]
        t = unit[:, j : j + 1]
        values[name] = np.exp(np.log(lo) + t * np.log(hi / lo)) if param.log else lo + t * (hi - lo)
    return values


def _thin(coords: Coordinates) -> Coordinates:
    n = len(coords.y)
    if n <= _ROWS:
        return coords
    rows = np.linspace(0, n - 1, _ROWS).astype(int)
    x = {k: v[rows] for k, v in coords.x.items()}
    return replace(coords, x=x, y=coords.y[rows])


def _project(coords: Coordinates, values: dict[str, np.ndarray]) -> tuple[dict, np.ndarray]:
    """Adds the best coefficients to grid values; returns both with the relative error (g,)."""
    assert coords.law.terms is not None
    log_phi = coords.law.terms(values, coords.x, np)
    solved = [n for n in coords.coefficients if n in coords.free]
    g = max([v.shape[0] for v in values.values() if v.ndim == 2], default=1)
    shape = (g, len(coords.y))
    rest = np.ones(shape)
    columns, centers = [], []
    for name, value in log_phi.items():
        value = np.broadcast_to(value, shape)
        middle = center(value)
        column = np.exp(np.minimum(value - middle, 300.0)) / coords.y
        if name in solved:
            columns.append(column)
            centers.append(middle[:, 0])
        else:
            sign = -1 if name in coords.law.inverse else 1
            rest = rest - column * np.exp(middle) * values[name] ** sign
    design = np.stack(columns, 1)
    gram = np.einsum("gkn,gln->gkl", design, design)
    moment = np.einsum("gkn,gn->gk", design, rest)
    power = (rest**2).sum(-1)
    b, rss = nonnegative_least_squares(gram, moment, power)
    floor = 1e-6 * np.median(np.abs(coords.y))
    for j, name in enumerate(solved):
        log_c = np.log(np.maximum(b[:, j], floor)) - centers[j]
        sign = -1 if name in coords.law.inverse else 1
        values[name] = np.exp(np.clip(sign * log_c, -690, 690))[:, None]
    return values, rss


def seeds(coords: Coordinates, objective: Objective, count: int = 5) -> list[np.ndarray]:
    """Returns up to ``count`` starting points, best first, no two in the same grid cell.

    Args:
        coords: the coordinates of the fit.
        objective: what ranks the candidates.
        count: how many to return.
    """
    if coords.law.seed is not None:
        found = [s | coords.held for s in coords.law.seed(coords.x, coords.y)]
        found = [s | {f: s[lead] for f, lead in coords.followers.items()} for s in found]
        candidates = np.array([coords.coordinates(s) for s in found])
        return _best(coords, objective, candidates, count)
    staged = _staged(coords, objective, count)
    return staged or _projected(coords, objective, count)


def _staged(coords: Coordinates, objective: Objective, count: int) -> list[np.ndarray]:
    """Fits the nested law to its rows, then searches what it leaves open; empty where it cannot."""
    if coords.law.nested is None:
        return []
    inner, describes = coords.law.nested
    rows = describes(coords.x)
    names = set(inner.names)
    ties = tuple(g for g in coords.ties if set(g) <= names)
    first = Coordinates(
        law=inner,
        x={k: v[rows] for k, v in coords.x.items()},
        y=coords.y[rows],
        fixed={k: v for k, v in coords.fixed.items() if k in names},
        ties=ties,
        bounds={k: v for k, v in coords.bounds.items() if k in names},
    )
    if rows.sum() <= len(first.free) or ties != tuple(coords.ties):
        return []
    ends = [polish(first, objective, u, tolerance=1e-8) for u in seeds(first, objective, 3)]
    if not ends:
        return []
    known = first.natural(min(ends, key=lambda end: end.objective).u)
    held = {k: float(v) for k, v in known.items()}
    rest = replace(coords, fixed=dict(coords.fixed) | held, ties=())
    found = _projected(rest, objective, count)
    every = [{k: float(v) for k, v in rest.natural(u).items()} for u in found]
    return [coords.coordinates(params) for params in every]


def _projected(coords: Coordinates, objective: Objective, count: int) -> list[np.ndarray]:
    """Seeds by projection on the search grid."""
    thin = _thin(coords)
    linear = [n for n in thin.coefficients if n in thin.free]
    solvable = bool(linear) and not any(n in thin.followers for n in thin.coefficients)
    solvable = solvable and not any(n in thin.followers.values() for n in linear)
    names = [n for n in thin.free if not (solvable and n in linear)]
    values = {k: np.asarray(v, float).reshape(1, 1) for k, v in thin.held.items()}
    values |= _search_values(thin, names)
    values |= {f: values[lead] for f, lead in thin.followers.items() if lead in values}
    if solvable:
        values = _in_chunks(thin, values)
    else:
        values |= {f: values[lead] for f, lead in thin.followers.items()}
    g = max(v.shape[0] for v in values.values())
    rows = [{k: float(v[min(i, v.shape[0] - 1), 0]) for k, v in values.items()} for i in range(g)]
    candidates = np.array([coords.coordinates(row) for row in rows])
    return _best(coords, objective, candidates, count)


def _in_chunks(coords: Coordinates, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Projects in slices that keep memory small; keeps the best few hundred points."""
    g = max(v.shape[0] for v in values.values())
    size = max(1, 2_000_000 // max(1, len(coords.y)))
    parts, errors = [], []
    for start in range(0, g, size):
        part = {k: v[start : start + size] if v.shape[0] > 1 else v for k, v in values.items()}
        part, rss = _project(coords, part)
        rows = max(v.shape[0] for v in part.values())
        parts.append({k: np.broadcast_to(v, (rows, 1)) for k, v in part.items()})
        errors.append(rss)
    joined = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
    keep = np.argsort(np.concatenate(errors), kind="stable")[:200]
    return {k: v[keep] for k, v in joined.items()}


def _best(coords, objective, candidates, count) -> list[np.ndarray]:
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        score = objective.value(objective.residual(coords.predict(candidates), coords.y))
    score = np.where(np.isfinite(score), score, np.inf)
    order = np.argsort(score, kind="stable")
    return [candidates[i] for i in order[:count] if np.isfinite(score[i])]
