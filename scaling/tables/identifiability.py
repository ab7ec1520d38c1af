"""Which parameters the rows determine: from the Jacobian at the best seed, before any polish."""

import numpy as np

from scaling.findings import Finding
from scaling.fitting.coordinates import Coordinates
from scaling.fitting.objectives import Objective
from scaling.fitting.seeding import seeds
from scaling.laws import Law
from scaling.tables.predictors import Table, axes
from scaling.uncertainty.covariance import covariance

#: Condition number of the scaled Jacobian above which parameters are called not identified.
CONDITION = 1e4
#: Condition number above which two columns of the Jacobian count as equal.
_SINGULAR = 1e8


def identifiability(ds: Table, law: Law) -> list[Finding]:
    """Finds directions of the parameters that the rows do not determine, at the best seed."""
    coords = Coordinates(law=law, x=ds.predictors(law), y=ds.target(law))
    if len(ds) <= len(coords.free):
        return [
            Finding(
                code="not_identified",
                severity="error",
                message=f"{len(ds)} rows cannot determine {len(coords.free)} parameters; "
                "fix or tie some, add runs, or choose a smaller law.",
                details={"rows": len(ds), "parameters": len(coords.free)},
            )
        ]
    objective = Objective(name="log-l2" if (coords.y > 0).all() else "l2")
    fatal = constants(ds, coords, objective)
    if fatal:
        return fatal
    starts = seeds(coords, objective, 1)
    if not starts:
        return []
    return weak_direction(coords, covariance(coords, objective, starts[0]))


def constants(ds: Table, coords: Coordinates, objective: Objective) -> list[Finding]:
    """Finds predictors that never vary although a fitted parameter needs them to.

    A constant predictor is harmless where its effect is only a factor (one block size for Sun's
    law); it is fatal where two columns of the Jacobian become equal.
    """
    still = [n for n, v in axes(ds, coords.law).items() if np.ptp(v) < 1e-9]
    if not still:
        return []
    starts = seeds(coords, objective, 1)
    if starts and covariance(coords, objective, starts[0]).condition < _SINGULAR:
        return []
    values = ", ".join(f"{n} is {ds[n][0]:g} in every row" for n in still)
    return [
        Finding(
            code="too_few_levels",
            severity="error",
            message=f"{values}, so law {coords.law.name!r} cannot be fitted: it needs "
            f"{', '.join(still)} to vary. Add runs, fix parameters, or choose a law without it.",
            details={"predictors": still},
        )
    ]


def weak_direction(coords, cov) -> list[Finding]:
    """Finds the parameters of the least determined direction, where the Jacobian is singular."""
    if cov.condition < CONDITION:
        return []
    names = [n for n, c in zip(coords.free, cov.weakest) if abs(c) > 0.3]
    return [
        Finding(
            code="not_identified",
            severity="warning",
            message=f"The data hardly determine {', '.join(names)} separately (condition number "
            f"{cov.condition:.2g}); fix one of them, or widen the design.",
            details={"parameters": names, "condition": cov.condition},
        )
    ]
