"""A fit that is fully specified: which rows, which coordinates, which objective and weights.

``pose`` checks everything that the caller asked for and answers in sentences; after it nothing is
optional any more. Solving is in ``scaling.fitting.fit``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaling.fitting import options
from scaling.fitting.coordinates import Coordinates
from scaling.fitting.objectives import Objective
from scaling.laws import Law, get
from scaling.tables.dataset import Dataset


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """A fit that is fully specified: rows, coordinates, objective and weights."""

    ds: Dataset
    coords: Coordinates
    objective: Objective
    weights: np.ndarray | None


def pose(
    ds: Dataset,
    law: str | Law,
    *,
    objective: str | Objective | None = None,
    delta: float = 1e-3,
    asymmetry: float = 2.0,
    fixed: Mapping[str, float] | None = None,
    tie: Any = (),
    bounds: Mapping[str, Any] | None = None,
    weights: Any = None,
    on_bad: str = "raise",
    center: bool = True,
) -> Problem:
    """Checks what is asked and returns the problem to be solved; see ``fit`` for the arguments."""
    law = get(law)
    ds = ds.complete(law, on_bad)
    if not isinstance(objective, Objective):
        objective = Objective(name=objective or law.objective, delta=delta, asymmetry=asymmetry)
    if objective.on_logs:
        ds = ds.positive(law.target, on_bad)
    x = ds.predictors(law)
    law = law.bind(law, x) if law.bind else law
    coords = Coordinates(
        law=law,
        x=x,
        y=ds.target(law),
        fixed=options.fixed(law, fixed),
        ties=options.ties(law, tie),
        bounds=options.bounds(law, bounds),
        centered_terms=center,
    )
    overlap = set(coords.fixed) & {name for group in coords.ties for name in group}
    if overlap:
        raise ValueError(f"{sorted(overlap)} are both fixed and tied; choose one.")
    return Problem(ds=ds, coords=coords, objective=objective, weights=options.weights(ds, weights))
