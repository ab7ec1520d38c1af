"""A results table: one row per finished run, in canonical columns and raw units.

Canonical names: N (parameters), D (tokens), C (FLOP), P, P_w, P_a, P_kv, P_post (bits), E, M
(exponent and mantissa bits), B (elements per scale; G is the same), fmt (a format's name), S
(sparsity), GMSE, loss and loss_base (nats per token), delta, metric, weight, group, run, final,
schedule. Other columns are kept and may be predictors of the user's own laws.

A bad row is named by its line and the reason. It raises, or, when asked, is dropped and remembered.
Reading files is in ``scaling.tables.reading``; judging a design is in ``scaling.tables.design``.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from scaling.capacity import gmse_of_format
from scaling.findings import Finding
from scaling.laws import Law, get
from scaling.tables import reading
from scaling.tables.columns import (
    as_floats,
    converted,
    find_impossible,
    no_column,
    no_columns,
    renamed,
)
from scaling.tables.formats import NumberFormat, parse_format

#: Columns that a format's name implies, and how.
_FROM_FORMAT = {
    "E": lambda f: np.nan if f.E is None else f.E,
    "M": lambda f: np.nan if f.M is None else f.M,
    "P": lambda f: f.bits,
    "B": lambda f: f.block,
    "GMSE": gmse_of_format,
}
_SHOWN = 10


class Dataset:
    """A results table in canonical columns.

    Args:
        frame: a mapping of columns, or a pandas DataFrame.
        map: canonical name to the column that holds it, with an optional unit:
            ``{"N": "params"}``, ``{"N": "params_m:1e6"}`` or ``{"N": "params_m:M"}``.
        derive: "D" computes missing tokens as C / (6 N), "C" computes C as 6 N D.
        on_bad: "raise" or "drop" rows with impossible values.
        lines: the line of each row in its file, for messages; 1, 2, ... by default.
        source: where the table came from, for reports.

    Raises:
        ValueError: the table is empty, a mapped column does not exist, or a row is bad.
    """

    def __init__(
        self,
        frame: Any,
        *,
        map: Mapping[str, str] | None = None,
        derive: str | Iterable[str] = (),
        on_bad: str = "raise",
        lines: Any = None,
        source: str | None = None,
        dropped: Iterable[tuple[int, str]] = (),
    ):
        raw = {str(k): np.asarray(frame[k]) for k in frame}
        lengths = {k: len(v) for k, v in raw.items()}
        if not raw or max(lengths.values()) == 0:
            raise ValueError(f"The table {source or ''} is empty; a fit needs one row per run.")
        if len(set(lengths.values())) != 1:
            raise ValueError(f"Columns have different lengths: {lengths}.")
        if on_bad not in ("raise", "drop"):
            raise ValueError(f"on_bad must be 'raise' or 'drop', got {on_bad!r}.")
        raw, units = renamed(raw, map or {})
        n = len(next(iter(raw.values())))
        self.source = source
        self.lines = np.arange(1, n + 1) if lines is None else np.asarray(lines)
        self.dropped: tuple[tuple[int, str], ...] = tuple(dropped)
        bad: dict[int, str] = {}
        self._columns = {k: converted(k, v, bad) for k, v in raw.items()}
        for name, unit in units.items():
            self._columns[name] = as_floats(name, self._columns[name]) * unit
        self._derive([derive] if isinstance(derive, str) else list(derive))
        for name, values in self._columns.items():
            find_impossible(name, values, bad)
        self._remove(bad, on_bad)

    def _derive(self, wanted: list[str]) -> None:
        formulas = {
            "D": (("C", "N"), lambda c: c["C"] / (6 * c["N"])),
            "C": (("N", "D"), lambda c: 6 * c["N"] * c["D"]),
        }
        for name in wanted:
            if name not in formulas:
                raise ValueError(f"derive can compute {sorted(formulas)}, got {name!r}.")
            needs, formula = formulas[name]
            for need in needs:
                self[need]
            old = self._columns.get(name, np.full(len(self), np.nan))
            self._columns[name] = np.where(np.isnan(old), formula(self._columns), old)

    def _remove(self, bad: Mapping[int, str], on_bad: str) -> None:
        if not bad:
            return
        named = [(int(self.lines[i]), reason) for i, reason in sorted(bad.items())]
        if on_bad == "raise":
            shown = "; ".join(f"line {line}: {why}" for line, why in named[:_SHOWN])
            more = f"; and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
            raise ValueError(
                f"{len(named)} bad row(s) in {self.source or 'the table'}: {shown}{more}. "
                "Correct them, or leave them out: --drop-bad, in Python on_bad='drop'."
            )
        keep = np.ones(len(self), bool)
        keep[list(bad)] = False
        if not keep.any():
            raise ValueError(f"Every row is bad; the first is line {named[0][0]}: {named[0][1]}.")
        self.lines = self.lines[keep]
        self._columns = {k: v[keep] for k, v in self._columns.items()}
        self.dropped = (*self.dropped, *named)

    @staticmethod
    def read(path: str | os.PathLike, *, kind: str | None = None, **options: Any) -> "Dataset":
        """Reads a table from a file.

        Args:
            path: the file.
            kind: "csv", "tsv", "json", "jsonl" or "parquet"; by the file's suffix where not given.
            **options: ``map``, ``derive`` and ``on_bad``, as above.

        Raises:
            ValueError: the file is missing, empty or not what ``kind`` says, or has bad rows.
            ImportError: pandas is not installed.
        """
        frame, lines = reading.read(path, kind)
        return Dataset(frame, lines=lines, source=str(path), **options)

    @staticmethod
    def read_csv(path: str | os.PathLike, **options: Any) -> "Dataset":
        """Reads a CSV file; options and errors as for ``read``."""
        return Dataset.read(path, kind="csv", **options)

    def __len__(self) -> int:
        return len(self.lines)

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def __repr__(self) -> str:
        return f"Dataset({len(self)} rows, columns {', '.join(self._columns)})"

    def __getitem__(self, name: str) -> np.ndarray:
        """Returns a column, computed from the formats' names or bits where only those are given."""
        found = self._find(name)
        if found is None:
            raise ValueError(no_column(name, self._columns))
        return found

    def _find(self, name: str) -> np.ndarray | None:
        if name in self._columns:
            return self._columns[name]
        if name == "B" and "G" in self._columns:
            return self._columns["G"]
        if name == "delta" and {"loss", "loss_base"} <= self._columns.keys():
            return self._columns["loss"] - self._columns["loss_base"]
        if name in _FROM_FORMAT and "fmt" in self._columns:
            parsed = {f: parse_format(str(f)) for f in set(self._columns["fmt"])}
            values = {f: _FROM_FORMAT[name](p) for f, p in parsed.items()}
            return np.array([values[f] for f in self._columns["fmt"]], float)
        if name in ("P", "GMSE") and {"E", "M"} <= self._columns.keys():
            return self._of_layouts(_FROM_FORMAT[name])
        return None

    def _of_layouts(self, quantity: Callable[[NumberFormat], float]) -> np.ndarray:
        """Returns what follows from exponent and mantissa bits; NaN where one is missing."""
        layouts = list(zip(self._columns["E"].tolist(), self._columns["M"].tolist()))
        values = {
            (e, m): quantity(NumberFormat(name="", E=int(e), M=int(m), bits=e + m + 1))
            if e % 1 == 0 and m % 1 == 0
            else np.nan
            for e, m in set(layouts)
        }
        return np.array([values[layout] for layout in layouts], float)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the stored columns."""
        return tuple(self._columns)

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The stored columns, as a new dictionary."""
        return dict(self._columns)

    @property
    def hash(self) -> str:
        """SHA-256 of the columns, independent of their order; names the data in a saved fit."""
        digest = hashlib.sha256()
        for name in sorted(self._columns):
            values = self._columns[name]
            digest.update(name.encode() + b"\0")
            text = values.dtype.kind in "OU"
            digest.update("\0".join(map(str, values)).encode() if text else values.tobytes())
        return digest.hexdigest()

    def take(self, rows: Any) -> "Dataset":
        """Returns the rows that a mask or an index array selects."""
        columns = {k: v[rows] for k, v in self._columns.items()}
        lines = self.lines[rows]
        if len(lines) == 0:
            raise ValueError("The selection leaves no row.")
        return Dataset(columns, lines=lines, source=self.source, dropped=self.dropped)

    def assign(self, **columns: Any) -> "Dataset":
        """Returns the table with columns added or replaced."""
        merged = self._columns | {k: np.asarray(v) for k, v in columns.items()}
        return Dataset(merged, lines=self.lines, source=self.source, dropped=self.dropped)

    def complete(self, law: str | Law, on_bad: str = "raise") -> "Dataset":
        """Returns the rows that have every predictor and the target of ``law``.

        Raises:
            ValueError: a column is missing, or a row has no value and ``on_bad`` is "raise".
        """
        law = get(law)
        bad: dict[int, str] = {}
        self._require(*law.predictors, law.target)
        for name in (*law.predictors, law.target):
            values = self[name]
            if name in law.labels:
                missing = np.flatnonzero(values == "")
            else:
                missing = np.flatnonzero(~np.isfinite(as_floats(name, values)))
            for i in missing:
                bad.setdefault(int(i), f"{name} has no value, and law {law.name!r} reads it")
        out = Dataset(self._columns, lines=self.lines, source=self.source, dropped=self.dropped)
        out._remove(bad, on_bad)
        return out

    def _require(self, *names: str) -> None:
        missing = [name for name in names if self._find(name) is None]
        if missing:
            raise ValueError(no_columns(missing, self._columns))

    def positive(self, name: str, on_bad: str = "raise") -> "Dataset":
        """Returns the rows in which a column is positive, as objectives on logarithms need.

        Raises:
            ValueError: a value is not positive and ``on_bad`` is "raise".
        """
        values = np.asarray(self[name], float)
        reason = (
            "{} is {:g} and has no logarithm; model the loss itself, pass objective='l2' or drop it"
        )
        bad = {int(i): reason.format(name, values[i]) for i in np.flatnonzero(values <= 0)}
        out = Dataset(self._columns, lines=self.lines, source=self.source, dropped=self.dropped)
        out._remove(bad, on_bad)
        return out

    def predictors(self, law: Law) -> dict[str, np.ndarray]:
        """Returns the columns that ``law`` reads; ValueError names all that are missing."""
        self._require(*law.predictors)
        return {n: self[n] if n in law.labels else np.asarray(self[n], float)
                for n in law.predictors}  # fmt: skip

    def target(self, law: Law) -> np.ndarray:
        """Returns the column that ``law`` predicts."""
        return np.asarray(self[law.target], float)

    def check(self, law: str | Law) -> list[Finding]:
        """Judges the design for ``law`` before a fit; see ``scaling.tables.design``."""
        # Judging a design needs the fit's coordinates, which need tables: only when asked.
        from scaling.tables.design import check

        return check(self, law)
