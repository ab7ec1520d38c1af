"""Approach 2: its bias on noise-free surfaces, and how it reads a table."""

import numpy as np
import pytest

from scaling import Dataset, laws
from scaling.closed import chinchilla
from scaling.isoflop import bias, isoflop

WINDOWS = (2, 4, 8, 16)
SURFACES = {
    (0.31, 0.31): (0, 0, 0, 0),
    (0.34, 0.28): (-0.327, -1.301, -2.903, -5.100),
    (0.465, 0.155): (-1.675, -6.498, -13.910, -23.116),
}


def surface(alpha: float, beta: float) -> dict[str, float]:
    return {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": alpha, "beta": beta}


@pytest.mark.parametrize("exponents", SURFACES)
def test_the_bias_of_a_window(exponents):
    found = [100 * bias(surface(*exponents), w)[0] for w in WINDOWS]
    assert found == pytest.approx(SURFACES[exponents], abs=1e-3)
    # A constant offset leaves the exponent alone.
    assert bias(surface(*exponents), 16)[1] == pytest.approx(0, abs=1e-12)


def test_a_drifting_window_corrupts_the_exponent():
    found = [bias(surface(0.31, 0.31), w, drift=3) for w in WINDOWS]
    assert [100 * e for e, _ in found] == pytest.approx([6.071, 5.171, 3.698, 1.689], abs=1e-3)
    assert 0.5 + found[0][1] == pytest.approx(0.5041, abs=5e-5)


def test_a_table_is_read_curve_by_curve():
    params = laws.published("besiroglu2024").params
    columns = {"N": [], "D": [], "loss": []}
    for C in (1e18, 1e19, 1e20):
        D = chinchilla.optimal_data(params, C) * np.geomspace(0.5, 2, 9)
        columns["D"] += list(D)
        columns["N"] += list(C / 6 / D)
        columns["loss"] += list(chinchilla.loss(params, C / 6 / D, D))
    path = isoflop(Dataset(columns))
    assert len(path.curves) == 3
    assert [c.C for c in path.curves] == pytest.approx([1e18, 1e19, 1e20])
    assert path.data(1e21) == pytest.approx(chinchilla.optimal_data(params, 1e21), rel=5e-3)
    assert path.data(1e21) * path.size(1e21) * 6 == pytest.approx(1e21)
    narrow = isoflop(Dataset(columns), window=1.5)
    assert all(len(c.D) < 9 for c in narrow.curves)
    assert "biased" in path.note


def test_too_few_budgets_are_refused():
    with pytest.raises(ValueError, match="two budgets"):
        isoflop(Dataset({"N": [1e8, 2e8, 4e8], "D": [4e9, 2e9, 1e9], "loss": [3.1, 3.0, 3.1]}))
