"""Columns of a results table: canonical names, units, conversion of words, impossible values.

The rules about single columns; a whole table is in ``scaling.tables.dataset``.
"""

import difflib
from collections.abc import Iterable, Mapping

import numpy as np

from scaling.tables.formats import CHANNEL_BLOCK

#: Columns of words.
LABELS = frozenset({"fmt", "family", "group", "run", "schedule", "final"})
#: Columns that must be positive wherever they have a value.
POSITIVE = frozenset({"N", "D", "C", "P", "P_w", "P_a", "P_kv", "P_post", "B", "loss", "loss_base"})
#: Columns that must not be negative wherever they have a value.
NONNEGATIVE = frozenset({"E", "M", "S", "weight", "GMSE"})
CANONICAL = POSITIVE | NONNEGATIVE | LABELS | {"delta", "metric"}
#: Words in names that people give to columns of numbers.
_WORDS = {
    "N": ("param", "size"),
    "D": ("token", "data", "bytes"),
    "C": ("flop", "compute"),
    "P": ("bit", "precision"),
    "loss": ("loss", "nll", "cross"),
}


def as_floats(name: str, values: np.ndarray) -> np.ndarray:
    """Returns numbers; ValueError where the column holds words."""
    if values.dtype.kind in "OU":
        raise ValueError(f"Column {name!r} holds words, such as {values[0]!r}; numbers are needed.")
    return np.asarray(values, float)


def no_column(name: str, columns: Iterable[str]) -> str:
    """Returns the sentence about a column that is not there, with near names."""
    return no_columns([name], columns)


def no_columns(names: Iterable[str], columns: Iterable[str]) -> str:
    """Returns one sentence about all columns that are not there, with the near name of each."""
    names, columns = list(names), list(columns)
    hints, mapped = [], {}
    for name in names:
        meant = [c for c in columns if any(word in c.lower() for word in _WORDS.get(name, ()))]
        hints += [c for c in meant or _near(name, columns) if c not in hints]
        mapped[name] = meant[0] if meant else "your_column"
    one = len(names) == 1
    hint = f" Near: {', '.join(hints)}." if hints else ""
    words = " ".join(f"{name}={column}" for name, column in mapped.items())
    return (
        f"The table has no column{'' if one else 's'} {', '.join(map(repr, names))}.{hint} "
        f"It has {', '.join(columns)}; name the column{'' if one else 's'} that "
        f"hold{'s it' if one else ' them'}: --map {words}, in Python map={mapped}."
    )


def _near(name: str, columns: list[str]) -> list[str]:
    near = difflib.get_close_matches(name.lower(), [c.lower() for c in columns], n=3, cutoff=0.3)
    return [c for c in columns if c.lower() in near]


_UNITS = {"K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}


def renamed(
    raw: dict[str, np.ndarray], map: Mapping[str, str]
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Returns the columns under canonical names, and the units that some must be multiplied by.

    Raises:
        ValueError: a mapped column does not exist, or a unit is not understood.
    """
    out, units, used = dict(raw), {}, set()
    for canonical, spec in map.items():
        column, _, unit = spec.partition(":") if spec not in raw else (spec, "", "")
        if column not in raw:
            near = _near(column, list(raw))
            hint = f" Near: {', '.join(near)}." if near else ""
            raise ValueError(
                f"{canonical} is said to be in column {column!r}, and the table has none of that "
                f"name.{hint} It has {', '.join(raw)}."
            )
        if unit:
            units[canonical] = _unit(unit, f"map {canonical}={spec}")
        out[canonical] = raw[column]
        used.add(column)
    return {k: v for k, v in out.items() if k not in used - set(map)}, units


def _unit(text: str, where: str) -> float:
    try:
        return _UNITS[text] if text in _UNITS else float(text)
    except ValueError:
        raise ValueError(
            f"{where}: the unit must be a number or one of {list(_UNITS)}, got {text!r}."
        ) from None


def converted(name: str, values: np.ndarray, bad: dict[int, str]) -> np.ndarray:
    """Returns numbers where the column is numeric, and stripped words elsewhere."""
    if values.dtype.kind in "fiub" and name not in LABELS:
        return values.astype(float)
    words = [("" if v is None or v != v else str(v)).strip() for v in values]
    if name in LABELS:
        return np.array(words, dtype=str)
    if name == "B":
        words = [repr(CHANNEL_BLOCK) if word.lower() == "channel" else word for word in words]
    out, failed = np.full(len(words), np.nan), {}
    for i, word in enumerate(words):
        try:
            out[i] = float(word) if word else np.nan
        except ValueError:
            failed[i] = f"{name} is {word!r}, which is not a number"
    if failed and name not in CANONICAL:
        return np.array(words, dtype=str)
    for i, reason in failed.items():
        bad.setdefault(i, reason)
    return out


def find_impossible(name: str, values: np.ndarray, bad: dict[int, str]) -> None:
    """Adds rows whose value cannot be to ``bad``, with the reason."""
    if name in ("loss",):
        for i in np.flatnonzero(~np.isfinite(values)):
            bad.setdefault(int(i), f"{name} is {values[i]}")
    if name in POSITIVE:
        for i in np.flatnonzero((values <= 0) | np.isinf(values)):
            bad.setdefault(int(i), f"{name} is {values[i]:g}, and must be positive and finite")
    elif name in NONNEGATIVE:
        for i in np.flatnonzero((values < 0) | np.isinf(values)):
            bad.setdefault(int(i), f"{name} is {values[i]:g}, and must be finite and >= 0")
