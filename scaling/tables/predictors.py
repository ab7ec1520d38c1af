"""What a judgement of a design reads of a table: its rows, and the predictors of a law in it."""

from typing import Protocol

import numpy as np

from scaling.laws import Law


class Table(Protocol):
    """What a judgement needs of a ``Dataset``."""

    lines: np.ndarray

    def __len__(self) -> int: ...

    def __contains__(self, name: str) -> bool: ...

    def __getitem__(self, name: str) -> np.ndarray: ...

    def complete(self, law: Law) -> "Table": ...

    def predictors(self, law: Law) -> dict[str, np.ndarray]: ...

    def target(self, law: Law) -> np.ndarray: ...


def axes(ds: Table, law: Law) -> dict[str, np.ndarray]:
    """Returns the numeric predictors on the scales on which laws see them."""
    out = {}
    for name, values in ds.predictors(law).items():
        if name in law.labels:
            continue
        if name in ("E", "M"):
            values = values + 0.5
        out[name] = values if name in ("S",) else np.log(np.maximum(values, 1e-300))
    return out
