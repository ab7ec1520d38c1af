"""Draws of the normal approximation: honest where it holds, inside of what the rows allow else."""

import numpy as np
import pytest

from scaling import Dataset, fit, laws
from scaling.simulate import simulate
from scaling.uncertainty.normal import normal_draws


@pytest.mark.parametrize("objective", ["huber-log", "log-l2"])
def test_draws_have_the_errors_of_the_delta_method(objective):
    result = fit(simulate("chinchilla", noise=0.003), "chinchilla", objective=objective)
    drawn = normal_draws(result, 4000, 0)
    np.testing.assert_allclose(drawn.std(0), result.covariance.errors, rtol=0.06)
    off = (drawn.mean(0) - result.u) / result.covariance.errors
    np.testing.assert_allclose(off, 0, atol=4 / np.sqrt(4000))


def test_the_seed_fixes_the_draws_and_their_number_is_kept():
    result = fit(simulate("chinchilla", noise=0.003), "chinchilla")
    one, two, other = (result.sample(50, seed)["alpha"] for seed in (1, 1, 2))
    assert one.shape == (50,)
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(("seed", "on_limit"), [(2, True), (5, True), (4, False), (7, False)])
def test_a_parameter_that_is_not_identified_does_not_run_away(seed, on_limit):
    """Without an irreducible loss E is anything small, or on its limit; its error says nothing."""
    truth = laws.published("besiroglu2024").params | {"E": 1e-9}
    table = simulate("chinchilla", truth, noise=0.003, seed=seed)
    result = fit(table, "chinchilla")
    losses = table["loss"]
    codes = {w.code for w in result.warnings}
    assert "not_identified" in codes
    assert ("parameter_at_bound" in codes) == on_limit
    drawn = result.sample(200)
    points = {k: v[None, :] for k, v in table.predictors(result.law).items()}
    predicted = result.law.predict({k: v[:, None] for k, v in drawn.items()}, points)
    assert np.abs(np.log(predicted / losses)).max() < 0.02


def test_a_fit_without_noise_still_has_draws():
    N = np.geomspace(1e7, 1e10, 9)
    table = Dataset({"N": N, "loss": 50 * N**-0.2 + 1.7})
    drawn = fit(table, "powerlaw_offset").sample(20)
    np.testing.assert_allclose(drawn["E"], 1.7, rtol=1e-6)
