"""What training and serving cost: FLOP, bits x FLOP, or a table of measured throughputs.

Every cost is ``k N D`` in FLOP of 16-bit products, where k says how much one parameter and token
cost in a format; 6 counts the forward and the backward pass. Serving adds one third of it (the
forward pass) per parameter and served token. Nothing here knows what hardware exists: relative
throughputs come from the user, and results that use them are only as good as that table.
"""

import csv
import math
import os
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from scaling.planning.candidates import Candidate

#: Names of the cost models that need no table. Kumar et al. and Sun et al. use the same one.
NAMES = ("flops16", "bits", "kumar", "sun")
#: Share of the training cost of one token that its forward pass alone costs.
FORWARD = 1 / 3


@dataclass(frozen=True, kw_only=True)
class Cost:
    """A cost model.

    Args:
        name: "flops16" (6 N D in every format), "bits" ((6/16) N D P with P the bits of one
            element; also "kumar" and "sun"), or the name of a table.
        speed: throughput of each format relative to BF16, for a table.
    """

    name: str = "bits"
    speed: Mapping[str, float] | None = field(default=None, hash=False)

    def __post_init__(self):
        if self.speed is None and self.name not in NAMES:
            raise ValueError(
                f"cost must be one of {NAMES}, or a CSV file with the columns format and "
                f"throughput (relative to BF16), got {self.name!r}."
            )
        for key, value in (self.speed or {}).items():
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"cost {self.name}: the throughput of {key} is {value}.")

    def per_product(self, candidate: Candidate, bits=None):
        """Returns k, the cost of one parameter and one token of training.

        Args:
            candidate: the format.
            bits: bits of one element, a scalar or an array, where they are not the candidate's.

        Raises:
            ValueError: the table does not have the format, or the candidate's bits are unknown.
        """
        if self.speed is not None:
            return 6.0 / self._speed_of(candidate)
        if self.name == "flops16":
            return 6.0
        width = candidate.bits if bits is None else bits
        if width is None:
            raise ValueError(
                f"cost {self.name!r} counts bits, and those of {candidate.name!r} are unknown; "
                "use cost='flops16' or a table of throughputs."
            )
        return 6.0 / 16.0 * width

    def _speed_of(self, candidate: Candidate) -> float:
        speed = {k.upper(): v for k, v in (self.speed or {}).items()}
        for key in (candidate.name, candidate.element):
            if key.upper() in speed:
                return speed[key.upper()]
        raise ValueError(
            f"The cost table {self.name} has no throughput for {candidate.name!r}; "
            f"it has {', '.join(self.speed or {})}."
        )


def read_cost(spec: "str | os.PathLike | Cost | Mapping[str, float]") -> Cost:
    """Returns a cost model by name, from a CSV file, or from a mapping of throughputs.

    Args:
        spec: a name in ``NAMES``, a path to a CSV file with the columns format and throughput, a
            mapping from formats to throughputs relative to BF16, or a ``Cost``.

    Raises:
        ValueError: the name is unknown, or the file has no such columns.
    """
    if isinstance(spec, Cost):
        return spec
    if isinstance(spec, Mapping):
        return Cost(name="table", speed={str(k): float(v) for k, v in spec.items()})
    if str(spec) in NAMES:
        return Cost(name=str(spec))
    path = pathlib.Path(spec)
    if not path.is_file():
        if path.suffix:
            raise ValueError(f"There is no cost table {path}.")
        return Cost(name=str(spec))
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as a cost table: {error}.") from None
    speed = {}
    for number, row in enumerate(rows, 2):
        try:
            speed[row["format"].strip()] = float(row["throughput"])
        except (KeyError, TypeError, ValueError):
            raise ValueError(
                f"{path}, line {number}: a cost table has the columns format and throughput "
                f"(relative to BF16), got {row}."
            ) from None
    if not speed:
        raise ValueError(f"The cost table {path} is empty.")
    return Cost(name=path.name, speed=speed)
