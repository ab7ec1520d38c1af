"""How well a design could determine a law at best: the Cramér-Rao bound, before any run.

For log-normal noise the standard errors of any unbiased estimator are at least those of the bound;
the default fit attains them where they are small. The bound knows nothing of misfit.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from scaling.fitting.coordinates import Coordinates
from scaling.laws import Law, get


def smallest_errors(
    law: str | Law,
    params: Mapping[str, float],
    design: Mapping[str, Any],
    noise: float,
    tie: Any = (),
) -> dict[str, float]:
    """Returns the smallest standard error of every free parameter, relative to its size.

    Args:
        law: the law, or its name.
        params: natural parameters of the law; a tied group shares its first one's value.
        design: predictor columns (n,).
        noise: standard deviation of the log target, or of the target itself for metrics.
        tie: a group of parameters that share one value, or several groups.

    Raises:
        ValueError: a predictor or a parameter is missing, or the design determines nothing
            because the information matrix is singular.
    """
    law = get(law)
    columns = law.columns({k: np.asarray(v) for k, v in design.items()})
    law = law.bind(law, columns) if law.bind else law
    ties = (tuple(tie),) if tie and isinstance(tie[0], str) else tuple(map(tuple, tie))
    target = law.predict(params, columns)
    coords = Coordinates(law=law, x=columns, y=np.asarray(target, float), ties=ties)
    u = coords.coordinates(params)
    value, slope = coords.prediction_and_jacobian(u)
    root = slope if law.target == "metric" else slope / value
    lengths = np.linalg.norm(root, axis=1)
    information = (root / lengths[:, None]) @ (root / lengths[:, None]).T
    if not np.isfinite(information).all() or np.linalg.cond(information) > 1e14:
        raise ValueError(
            f"The design does not determine {', '.join(coords.free)} of law {law.name!r} "
            "separately; vary more predictors, or tie parameters."
        )
    covariance = np.linalg.inv(information) / lengths[:, None] / lengths[None, :]
    names = coords.free
    steps = coords.natural(u + 1e-30j * np.eye(len(u)))
    relative = np.stack([np.imag(steps[k]) / 1e-30 / abs(params[k]) for k in names])
    errors = noise * np.sqrt(np.einsum("ku,uv,kv->k", relative, covariance, relative))
    return {name: float(error) for name, error in zip(names, errors)}
