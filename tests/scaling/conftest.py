"""Where the tests find results tables: ``SCALING_DATA``, or a folder beside the checkout."""

import os
import pathlib
import resource

import numpy as np
import pytest

from scaling import Dataset

ROOT = pathlib.Path(__file__).parent.parent.parent
DATA = pathlib.Path(os.environ.get("SCALING_DATA", ROOT / "../shared/data"))


def processor_seconds() -> float:
    """Returns the processor time of this process and of its finished children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


@pytest.fixture(scope="session")
def data():
    """Returns a function from a relative path to a results table on disk; skips without one."""

    def find(name: str) -> pathlib.Path:
        pytest.importorskip("pandas", reason="reading tables needs the tables extra")
        path = DATA / name
        if not path.exists():
            pytest.skip(f"SCALING_DATA has no {name}")
        return path

    return find


@pytest.fixture(scope="session")
def epoch(data) -> Dataset:
    """Epoch's 245 points read off Hoffmann's figure, without the five of highest loss."""
    ds = Dataset.read_csv(data("chinchilla_epoch/runs.csv"))
    return ds.take(ds["loss"] < np.sort(ds["loss"])[-5])
