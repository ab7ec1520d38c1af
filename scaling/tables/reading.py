"""Reads results tables from files through pandas, keeping the line of every row.

pandas belongs to the ``tables`` extra; everything else of ``scaling`` works on arrays without it.
Text tables are read as words and converted by ``Dataset``, so that a wrong cell can be named.
"""

import json
import os
import pathlib
from typing import Any

KINDS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}


def read(path: str | os.PathLike, kind: str | None = None) -> tuple[Any, Any]:
    """Reads a table.

    Args:
        path: the file.
        kind: "csv", "tsv", "json" (a list of records, or columns), "jsonl" or "parquet"; by the
            file's suffix where not given.

    Returns:
        The frame, and the line of every row as numbered in the file (the header of a CSV is
        line 1).

    Raises:
        ValueError: the file is missing, empty or not what ``kind`` says.
        ImportError: pandas is not installed.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name the file of the table.")
    kind = kind or KINDS.get(path.suffix.lower())
    if kind is None or kind not in KINDS.values():
        raise ValueError(
            f"Cannot tell what {path.name} is; pass kind, one of {sorted(set(KINDS.values()))}."
        )
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    if path.stat().st_size == 0:
        raise ValueError(f"The table {path} is empty; a fit needs one row per run.")
    return _frame(path, kind)


def _pandas() -> Any:
    try:
        import pandas
    except ImportError:
        raise ImportError(
            "Reading tables needs pandas; install the extra: pip install 'qjax[tables]'."
        ) from None
    return pandas


def _frame(path: pathlib.Path, kind: str) -> tuple[Any, Any]:
    pd = _pandas()
    try:
        if kind in ("csv", "tsv"):
            frame = pd.read_csv(
                path,
                sep="," if kind == "csv" else "\t",
                dtype=str,
                keep_default_na=False,
                skip_blank_lines=False,
                skipinitialspace=True,
            )
            if not isinstance(frame.index, pd.RangeIndex):
                raise ValueError("some rows have more cells than the header")
            head = str(frame.columns[0])
            if len(frame.columns) == 1 and (other := next((c for c in ";\t," if c in head), None)):
                raise ValueError(
                    f"its header is one cell, {head!r}; separate columns by "
                    f"{'commas' if kind == 'csv' else 'tabs'} instead of {other!r}"
                )
            filled = (frame != "").any(axis=1).to_numpy()
            return frame[filled], frame.index.to_numpy()[filled] + 2
        if kind == "jsonl":
            rows = [(i, s) for i, s in enumerate(path.read_text().splitlines(), 1) if s.strip()]
            frame = pd.DataFrame([json.loads(s) for _, s in rows])
            return frame, [i for i, _ in rows]
        if kind == "json":
            frame = pd.DataFrame(json.loads(path.read_text()))
        else:
            frame = pd.read_parquet(path)
    except (ValueError, UnicodeDecodeError, OSError) as error:
        # pandas' parser errors and JSON's are ValueErrors.
        raise ValueError(f"{path} cannot be read as {kind}: {str(error).strip()}") from None
    return frame, range(1, len(frame) + 1)
