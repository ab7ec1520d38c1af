"""The smallest possible errors of a design: what fits attain, and what no design can give."""

import numpy as np
import pytest

from scaling import fit
from scaling.simulate import default_design, grid, simulate, typical
from scaling.uncertainty.bound import smallest_errors

DESIGN = grid(N=np.geomspace(1e8, 1e10, 5), D=np.geomspace(1e9, 1e11, 5))
TRUTH = typical("chinchilla")


def test_estimates_scatter_as_the_bound_says():
    bound = smallest_errors("chinchilla", TRUTH, DESIGN, 1e-3)
    tables = (simulate("chinchilla", design=DESIGN, noise=1e-3, seed=s) for s in range(60))
    found = [fit(ds, "chinchilla", objective="log-l2").params for ds in tables]
    for name, error in bound.items():
        scatter = np.std([np.log(params[name] / TRUTH[name]) for params in found], ddof=1)
        # A standard deviation of 60 is known to 9 %; three of them.
        assert scatter == pytest.approx(error, rel=0.27), name


def test_a_line_has_the_bound_of_the_textbook():
    """L = A N^-alpha alone: log L is linear in log N, with the variance of a regression's slope."""
    sizes = np.geomspace(1e7, 1e9, 9)
    bound = smallest_errors("kaplan_n", typical("kaplan_n"), {"N": sizes}, 0.01)
    spread = np.log(sizes) - np.log(sizes).mean()
    slope = 0.01 / np.sqrt((spread**2).sum())
    exponent = next(name for name in bound if name.startswith("alpha"))
    assert bound[exponent] * typical("kaplan_n")[exponent] == pytest.approx(slope, rel=1e-9)


def test_reruns_and_noise_scale_it():
    once = smallest_errors("kumar_lp", typical("kumar_lp"), default_design("kumar_lp"), 0.01)
    design = {name: np.tile(column, 4) for name, column in default_design("kumar_lp").items()}
    four = smallest_errors("kumar_lp", typical("kumar_lp"), design, 0.02)
    assert four == pytest.approx(once, rel=1e-9)


def test_tied_parameters_are_better_determined():
    truth = TRUTH | {"beta": TRUTH["alpha"]}
    tied = smallest_errors("chinchilla", truth, DESIGN, 0.01, tie=("alpha", "beta"))
    assert "beta" not in tied
    assert tied["alpha"] < smallest_errors("chinchilla", truth, DESIGN, 0.01)["alpha"]


def test_labels_and_metrics_have_bounds_too():
    for law in ("decoupled_eff", "error_link"):
        bound = smallest_errors(law, typical(law), default_design(law), 1e-3)
        assert all(0 < error < 1 for error in bound.values())


def test_a_design_that_determines_nothing_is_refused():
    with pytest.raises(ValueError, match=r"does not determine .* separately"):
        smallest_errors("chinchilla", TRUTH, grid(N=np.geomspace(1e8, 1e10, 5), D=(1e9,)), 0.01)
