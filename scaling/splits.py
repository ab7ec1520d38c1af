"""Ways to hold runs out, so that laws are judged where they have not looked.

A split is named by a short text:

    holdout:N:max      the rows of the largest N (or D, C, ...)
    holdout:N>5e8      the rows that meet a condition (> >= < <= =)
    group:P            each value of a column in turn, or each label
    kfold:5            random fifths, the same for every law

Extrapolation (``holdout``) decides between laws; random folds mostly measure noise.
"""

import re
from dataclasses import dataclass

import numpy as np

from scaling.tables.columns import LABELS
from scaling.tables.dataset import Dataset

_CONDITION = re.compile(r"^(\w+)\s*(>=|<=|>|<|=)\s*(.+)$")


@dataclass(frozen=True, kw_only=True, eq=False)
class Fold:
    """One division: the mask (n,) of rows that are held out, and what they are."""

    name: str
    test: np.ndarray


def folds(ds: Dataset, split: str, seed: int = 0) -> list[Fold]:
    """Returns the folds of a split.

    Args:
        ds: the table.
        split: as described above.
        seed: fixes the random folds.

    Raises:
        ValueError: the text is not understood, a column does not exist, or a fold would hold out
            nothing or everything.
    """
    kind, _, rest = split.partition(":")
    if kind == "holdout" and rest.endswith(":max"):
        column = _numbers(ds, rest.removesuffix(":max"))
        out = [Fold(name=split, test=column >= column.max() * (1 - 1e-9))]
    elif kind == "holdout" and _CONDITION.match(rest):
        out = [Fold(name=split, test=condition(ds, rest))]
    elif kind == "group" and rest:
        values = ds[rest]
        out = [Fold(name=f"{rest}={v}", test=values == v) for v in np.unique(values)]
    elif kind == "kfold" and rest.isdigit() and 2 <= int(rest) <= len(ds):
        part = np.random.default_rng(seed).permutation(len(ds)) % int(rest)
        out = [Fold(name=f"fold {i + 1}", test=part == i) for i in range(int(rest))]
    else:
        raise ValueError(
            f"split {split!r} is not understood; write holdout:N:max, holdout:N>5e8, group:P or "
            f"kfold:5 (at most {len(ds)} folds)."
        )
    for fold in out:
        if not fold.test.any() or fold.test.all():
            raise ValueError(f"split {split!r} would hold out {int(fold.test.sum())} of {len(ds)}.")
    return out


def _numbers(ds: Dataset, name: str) -> np.ndarray:
    if name == "C" and "C" not in ds:
        return 6 * np.asarray(ds["N"], float) * np.asarray(ds["D"], float)
    values = ds[name]
    if values.dtype.kind in "OU":
        raise ValueError(f"split: column {name!r} holds words; use group:{name}.")
    return np.asarray(values, float)


def condition(ds: Dataset, text: str) -> np.ndarray:
    """Returns the mask (n,) of rows that meet a condition, such as N>5e8 or fmt=BF16.

    Raises:
        ValueError: the condition is not understood, or its column does not exist.
    """
    match = _CONDITION.match(text)
    if match is None:
        raise ValueError(f"condition {text!r} is not understood; write N>5e8, N<=1e9 or fmt=BF16.")
    name, sign, wanted = match.groups()
    if sign == "=" and (name in LABELS or ds[name].dtype.kind in "OU"):
        return ds[name] == wanted
    try:
        value = float(wanted)
    except ValueError:
        raise ValueError(f"split condition {text!r}: {wanted!r} is not a number.") from None
    column = _numbers(ds, name)
    compare = {
        ">": np.greater,
        ">=": np.greater_equal,
        "<": np.less,
        "<=": np.less_equal,
        "=": np.isclose,
    }
    return compare[sign](column, value)
