"""A results table on disk: CSV, one row per finished run, replaced whole or not at all."""

import csv
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any


def write_table(rows: Iterable[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Writes rows as CSV; columns come in the order in which they first appear.

    A reader, or a process killed meanwhile, finds the old file or the new one.
    """
    rows = list(rows)
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_table(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads the rows of `write_table`, numbers and truth values as such; none without a file."""
    path = pathlib.Path(path)
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{k: _value(v) for k, v in row.items()} for row in csv.DictReader(file)]


def _value(text: str) -> Any:
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
