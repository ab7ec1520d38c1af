"""The metrics file: one JSON object a line, appended chunk by chunk. It holds no pictures."""

import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Protocol


class Metrics(Protocol):
    """Where a run sends its rows."""

    def write(self, rows: list[Mapping[str, Any]], /) -> None: ...


class MetricsFile:
    """Appends rows to a JSONL file; a run resumed at step `t` first drops the rows after `t`.

    Args:
      path: The file; its folder is made if missing.
      resume_at: Step from which the run goes on; rows with a larger `step` are dropped.
    """

    def __init__(self, path: str | os.PathLike[str], *, resume_at: int = 0):
        self.path = pathlib.Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = [row for row in read_metrics(self.path) if row["step"] <= resume_at]
        if resume_at == 0:
            kept = []
        partial = self.path.with_name(self.path.name + ".partial")
        partial.write_text("".join(_line(row) for row in kept))
        partial.replace(self.path)

    def write(self, rows: list[Mapping[str, Any]]) -> None:
        """Appends `rows`; each holds `step` and finite numbers or strings by name."""
        try:
            with self.path.open("a") as file:
                file.write("".join(_line(row) for row in rows))
        except OSError as error:
            raise OSError(
                error.errno,
                f"The metrics of step {rows[0]['step']} could not be written ({error.strerror}). "
                "Free space; a run with checkpoints goes on from the last one",
                str(self.path),
            ) from None


class TensorBoard:
    """Sends the rows of a run to TensorBoard, and to a metrics file beside it.

    Args:
      writer: A summary writer, that of `flax.metrics.tensorboard`, `tensorboardX` or `torch`: an
        object with `add_scalar(name, value, step)` or `scalar(name, value, step)`.
      also: A metrics file that gets the same rows; None: none.
    """

    def __init__(self, writer: Any, *, also: MetricsFile | None = None):
        self.writer, self.also = writer, also

    def write(self, rows: list[Mapping[str, Any]]) -> None:
        """Passes on every number of `rows`, by the names in it."""
        add = getattr(self.writer, "add_scalar", None) or self.writer.scalar
        for row in rows:
            for name, value in row.items():
                if name != "step" and not isinstance(value, str):
                    add(name, value, row["step"])
        if self.also is not None:
            self.also.write(rows)


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads a metrics file; a last line cut short by a killed run is left out."""
    path = pathlib.Path(path)
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def _line(row: Mapping[str, Any]) -> str:
    # JSON has no NaN; readers other than Python's would refuse the file.
    def safe(value: Any) -> Any:
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps({name: safe(value) for name, value in row.items()}) + "\n"
