"""Fast enough to be used without thinking: one fit, the literature's grid beside it, the import."""

import subprocess
import sys

import numpy as np
import pytest

from scaling import fit
from scaling.fitting.coordinates import Coordinates
from scaling.fitting.grid import descend, hoffmann_starts
from scaling.simulate import grid, simulate
from tests.scaling.conftest import processor_seconds

DESIGN = grid(N=np.geomspace(5e7, 1.6e10, 20), D=np.geomspace(1e9, 3e11, 20))


def seconds(work, repeats: int = 3) -> float:
    """Returns the shortest of several processor times, which other processes disturb least."""
    times = []
    for _ in range(repeats):
        began = processor_seconds()
        work()
        times.append(processor_seconds() - began)
    return min(times)


@pytest.mark.parametrize("name", ["chinchilla", "kumar_equal", "sun_fp", "capacity_tanh"])
def test_a_fit_of_four_nonlinear_parameters_takes_less_than_a_second(name):
    ds = simulate(name, noise=0.003)
    ds = ds.take(np.resize(np.arange(len(ds)), 400)).assign(run=np.arange(400))
    assert seconds(lambda: fit(ds, name)) < 1.0


def every_hundredth_start(ds) -> tuple[float, float]:
    """Returns the time of all 4500 starts, from every hundredth, and the best objective."""
    result = fit(ds, "chinchilla")
    objective = result.problem.objective
    coords = Coordinates(
        law=result.law, x=result.problem.coords.x, y=ds["loss"], centered_terms=False
    )
    starts = [coords.coordinates(s) for s in list(hoffmann_starts())[::100]]
    began = processor_seconds()
    ends = [descend(coords, objective, u) for u in starts]
    return 100 * (processor_seconds() - began), min(end.objective for end in ends)


def test_projection_is_fifty_times_faster_than_the_grid_of_the_literature():
    ds = simulate("chinchilla", design=DESIGN, noise=0.003)
    grid_time, grid_objective = every_hundredth_start(ds)
    assert seconds(lambda: fit(ds, "chinchilla")) * 50 < grid_time
    assert fit(ds, "chinchilla").objective <= grid_objective * (1 + 1e-9)


@pytest.mark.slow
def test_the_whole_grid_finds_nothing_better(epoch):
    began = processor_seconds()
    parity = fit(epoch, "chinchilla", method="grid")
    grid_time = processor_seconds() - began
    began = processor_seconds()
    ours = fit(epoch, "chinchilla")
    assert len(parity.starts) == 4500
    assert ours.objective <= parity.objective * (1 + 1e-9)
    assert 50 * (processor_seconds() - began) < grid_time


def test_the_import_costs_little_beyond_scipys():
    def took(code: str) -> float:
        return seconds(lambda: subprocess.run([sys.executable, "-c", code], check=True))

    assert took("import scipy, numpy, scaling") - took("import scipy, numpy") < 0.5
