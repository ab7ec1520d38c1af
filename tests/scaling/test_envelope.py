"""Approach 1: the envelope of training curves."""

import numpy as np
import pytest

from scaling import Dataset, laws
from scaling.closed import chinchilla
from scaling.envelope import envelope
from scaling.simulate import grid, simulate

PARAMS = laws.published("besiroglu2024").params


def test_the_envelope_of_many_sizes_gives_the_optimal_path():
    design = grid(N=np.geomspace(5e7, 5e10, 40), D=np.geomspace(1e8, 1e13, 60))
    found = envelope(simulate("chinchilla", PARAMS, design))
    a, b = chinchilla.allocation_exponents(PARAMS)
    assert found.exponents == pytest.approx((a, b), abs=0.01)
    assert sum(found.exponents) == pytest.approx(1)
    N, D = found.optimum(1e22)
    expected = chinchilla.optimum(PARAMS, 1e22)
    assert pytest.approx(expected, rel=0.1) == (N, D)
    assert pytest.approx(1e22) == 6 * N * D
    best = chinchilla.loss(PARAMS, *chinchilla.optimum(PARAMS, found.C[700]))
    assert found.loss[700] == pytest.approx(best, rel=2e-3)


def test_hoffmanns_first_approach_gives_equal_exponents(data):
    table = Dataset.read_csv(data("published/hoffmann2022_table3_approach1.csv"), map={"C": "FLOP"})
    a = np.polyfit(np.log(table["C"]), np.log(table["N"]), 1)[0]
    b = np.polyfit(np.log(table["C"]), np.log(table["D"]), 1)[0]
    assert (a, b) == pytest.approx((0.50, 0.50), abs=0.005)


def test_curves_that_do_not_meet_are_refused():
    apart = grid(N=(1e7, 1e12), D=(1e9, 2e9))
    with pytest.raises(ValueError, match="overlap"):
        envelope(simulate("chinchilla", PARAMS, apart))
    with pytest.raises(ValueError, match="two sizes"):
        envelope(simulate("chinchilla", PARAMS, grid(N=(1e7,), D=(1e9, 2e9))))
