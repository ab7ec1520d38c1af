"""Speed of fits of scaling laws: one fit, the literature's whole grid beside it, bootstrap, import.

All 4500 starts of the grid run, once, in the same process as the fit they are compared with: about
four minutes. The grid has the advantage of exact gradients, which papers' scripts seldom have, and
starts uncentered, as they do. What is compared are processor times, which other programs on the
machine disturb least. Run with
`python -m pytest -m benchmark -s tests/benchmarks/bench_scaling.py`.
"""

import importlib.metadata
import os
import platform
import subprocess
import sys
import time

import numpy as np
import pytest

from scaling import Dataset, fit
from scaling.simulate import grid, simulate
from tests.scaling.conftest import processor_seconds

pytestmark = pytest.mark.benchmark
ROWS = 400
#: Laws by their number of nonlinear parameters.
NONLINEAR = {"chinchilla": 2, "kumar_equal": 4, "sun_fp": 4, "capacity_tanh": 4}


def table(name: str) -> Dataset:
    """400 noisy runs."""
    wide = grid(N=np.geomspace(5e7, 1.6e10, 20), D=np.geomspace(1e9, 3e11, 20))
    ds = simulate(name, design=wide if name == "chinchilla" else None, noise=0.003)
    return ds.take(np.linspace(0, len(ds) - 1, ROWS).astype(int))


@pytest.fixture(scope="module", autouse=True)
def machine():
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("numpy", "scipy")]
    print(f"\n{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; "
          f"{', '.join(versions)}")  # fmt: skip


def timed(work) -> tuple[float, float]:
    """Returns the processor time and the wall time of a call, children included."""
    wall, processor = time.perf_counter(), processor_seconds()
    work()
    return processor_seconds() - processor, time.perf_counter() - wall


@pytest.mark.parametrize("name", NONLINEAR)
def test_fits_and_bootstraps(name):
    ds = table(name)
    one = min(timed(lambda: fit(ds, name)) for _ in range(5))
    many = timed(lambda: fit(ds, name, bootstrap=1000))
    print(f"{name:14} {NONLINEAR[name]} nonlinear, {ROWS} rows, processor (wall): fit {one[0]:.2f} "
          f"({one[1]:.2f}) s, with 1000 bootstraps {many[0]:.1f} ({many[1]:.1f}) s")  # fmt: skip
    assert one[0] < 1
    assert many[0] < 2 * 30  # half a minute on two cores


def test_the_whole_grid():
    ds = table("chinchilla")
    fit(ds, "chinchilla")
    began = processor_seconds()
    ours = fit(ds, "chinchilla")
    middle = processor_seconds()
    theirs = fit(ds, "chinchilla", method="grid")
    ratio = (processor_seconds() - middle) / (middle - began)
    best = theirs.objective
    reached = np.mean([s.objective < best * (1 + 1e-6) for s in theirs.starts])
    print(f"chinchilla, {ROWS} rows, {len(theirs.starts)} starts: {ratio * (middle - began):.0f} s "
          f"against {middle - began:.2f} s (processor), {ratio:.0f} times; objective "
          f"{best:.15g} against {ours.objective:.15g}; {reached:.0%} of starts")  # fmt: skip
    assert len(theirs.starts) == 4500
    assert ours.objective <= best * (1 + 1e-9)
    assert ratio > 50


def test_import():
    def took(code: str) -> float:
        times = []
        for _ in range(5):
            began = processor_seconds()
            subprocess.run([sys.executable, "-c", code], check=True)
            times.append(processor_seconds() - began)
        return min(times)

    beyond = took("import numpy, scipy.optimize, scaling") - took("import numpy, scipy.optimize")
    print(f"import of scaling beyond SciPy's: {beyond:.2f} s (processor)")
    assert beyond < 0.5
