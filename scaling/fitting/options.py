"""What the caller may ask of a fit, checked at the door.

Turns names and loose shapes (a tie as a pair or a list of groups, weights as a column or an array)
into one form, and refuses what does not fit the law or the table.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scaling.laws import Law
from scaling.tables.dataset import Dataset

METHODS = ("vp", "grid", "start")


def ties(law: Law, tie: Any) -> tuple[tuple[str, ...], ...]:
    """Returns groups of tied parameters.

    Raises:
        ValueError: a name is unknown, a group has fewer than two, or a name is in two groups.
    """
    if not tie:
        return ()
    groups = (tuple(tie),) if isinstance(tie[0], str) else tuple(tuple(g) for g in tie)
    seen: set[str] = set()
    for group in groups:
        if len(group) < 2:
            raise ValueError(f"tie needs at least two parameters in a group, got {group}.")
        for name in group:
            law.param(name)
            if name in seen:
                raise ValueError(f"tie names {name!r} twice.")
            seen.add(name)
        if len({law.param(n).log for n in group}) > 1:
            raise ValueError(f"tie {group} mixes positive parameters with signed ones.")
    return groups


def fixed(law: Law, values: Mapping[str, float] | None) -> dict[str, float]:
    """Returns held parameters.

    Raises:
        ValueError: a name is unknown or a value is impossible.
    """
    out = {}
    for name, value in (values or {}).items():
        param = law.param(name)
        number = float(value)
        low, high = param.bounds
        if not np.isfinite(number) or (param.log and number <= 0) or not low <= number <= high:
            raise ValueError(f"fixed {name}={value} lies outside of {param.bounds}.")
        out[name] = number
    return out


def bounds(law: Law, values: Mapping[str, Sequence[float]] | None) -> dict[str, tuple]:
    """Returns natural bounds by parameter; None stands for no bound.

    Raises:
        ValueError: a name is unknown, or the bounds are not ordered.
    """
    out = {}
    for name, pair in (values or {}).items():
        param = law.param(name)
        low, high = pair
        low = param.bounds[0] if low is None else float(low)
        high = param.bounds[1] if high is None else float(high)
        if not low < high or (param.log and high <= 0):
            raise ValueError(f"bounds {name}={tuple(pair)} are not ordered, lower first.")
        out[name] = (low, high)
    return out


def weights(ds: Dataset, value: Any) -> np.ndarray | None:
    """Returns row weights (n,) from a column's name or an array.

    Raises:
        ValueError: the length is wrong, or a weight is negative, infinite or NaN.
    """
    if value is None:
        return None
    w = np.asarray(ds[value] if isinstance(value, str) else value, float)
    if w.shape != (len(ds),):
        raise ValueError(f"weights must have one value per row ({len(ds)}), got shape {w.shape}.")
    if not np.isfinite(w).all() or (w < 0).any() or w.sum() == 0:
        raise ValueError("weights must be finite, not negative, and not all zero.")
    return w


def groups(ds: Dataset, value: Any) -> np.ndarray | None:
    """Returns group labels (n,) from a column's name or an array; ValueError on a wrong length."""
    if value is None:
        return None
    labels = np.asarray(ds[value] if isinstance(value, str) else value)
    if labels.shape != (len(ds),):
        raise ValueError(f"group must have one label per row ({len(ds)}), got {labels.shape}.")
    return labels
