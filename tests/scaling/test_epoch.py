"""Epoch's Chinchilla points: the exact optimum, and how a fit finds it."""

from dataclasses import replace

import numpy as np
import pytest

from scaling import fit, laws
from scaling.fitting.grid import descend, hoffmann_starts
from tests.scaling.conftest import processor_seconds

OPTIMUM = {
    "A": 477.82586648817204,
    "B": 2143.4173664816917,
    "E": 1.8172180988593454,
    "alpha": 0.34731049867002495,
    "beta": 0.36717243270046884,
}
OBJECTIVE = 0.0010182740178006008


def test_the_exact_optimum_is_found(epoch):
    assert len(epoch) == 240
    result = fit(epoch, "chinchilla")
    assert result.objective == pytest.approx(OBJECTIVE, rel=1e-8)
    assert result.params == pytest.approx(OPTIMUM, rel=1e-4)
    assert result.converged
    assert result.agreeing == len(result.starts) == 5


def test_published_coefficients_are_near_but_not_the_minimum(epoch):
    result = fit(epoch, "chinchilla")
    published = {"A": 482.01, "B": 2085.43, "E": 1.8172, "alpha": 0.3478, "beta": 0.3658}
    prediction = result.law.predict(published, epoch.predictors(result.law))
    objective = result.problem.objective
    there = objective.value(objective.residual(prediction, epoch["loss"]))
    assert there == pytest.approx(0.0010228, abs=1e-7)
    assert there > result.objective
    assert result.params["A"] == pytest.approx(published["A"], rel=0.02)
    assert result.params["B"] == pytest.approx(published["B"], rel=0.05)
    assert result.params["E"] == pytest.approx(published["E"], abs=1e-3)
    assert result.params["alpha"] == pytest.approx(published["alpha"], abs=1e-3)
    assert result.params["beta"] == pytest.approx(published["beta"], abs=2e-3)


def test_bootstrap_errors_are_those_of_the_replication(epoch):
    began = processor_seconds()
    result = fit(epoch, "chinchilla", bootstrap=1000, seed=0)
    # Half a minute on two cores; processor time does not see what else the machine is doing.
    assert processor_seconds() - began < 60
    assert result.draws.converged.all()
    errors = result.errors("bootstrap")
    assert errors["E"] == pytest.approx(0.0256, rel=0.2)
    assert errors["alpha"] == pytest.approx(0.0148, rel=0.2)
    assert errors["beta"] == pytest.approx(0.0212, rel=0.2)
    # The amplitudes have heavy tails, so that their standard deviation is itself uncertain.
    assert errors["A"] == pytest.approx(124.5, rel=0.4)
    assert errors["B"] == pytest.approx(1293, rel=0.4)
    draws = result.sample()
    share = draws["beta"] / (draws["alpha"] + draws["beta"])
    assert share.std() == pytest.approx(0.020, rel=0.2)


def test_outliers_that_move_the_answer_are_reported(epoch, data):
    from scaling import Dataset

    everything = fit(Dataset.read_csv(data("chinchilla_epoch/runs.csv")), "chinchilla")
    assert everything.params["B"] == pytest.approx(12846, rel=0.02)
    assert everything.params["beta"] == pytest.approx(0.453, abs=2e-3)
    assert everything.params["E"] == pytest.approx(1.891, abs=2e-3)
    found = {w.code: w for w in everything.warnings}
    lines = found["outliers"].details["lines"]
    worst = np.argsort(-np.abs(everything.residuals))[:3]
    assert [int(everything.problem.ds.lines[i]) for i in worst] == lines[:3]


def test_noise_that_differs_over_the_table_is_said(epoch):
    """Epoch's points of low compute are noisier: the delta method alone would be too sure."""
    result = fit(epoch, "chinchilla", bootstrap=200)
    found = {w.code: w for w in result.warnings}["uneven_noise"]
    actual = result.errors("bootstrap")["alpha"] / result.errors("delta")["alpha"]
    assert found.details["factor"] == pytest.approx(actual, rel=0.35)
    assert actual > 1.3


def test_robust_and_least_squares_estimates_disagree_and_it_is_said(epoch):
    result = fit(epoch, "chinchilla")
    codes = {w.code for w in result.warnings}
    assert "objective_disagreement" in codes


@pytest.mark.parametrize(
    ("delta", "alpha", "beta"),
    [(1e-4, 0.3473, 0.3654), (1e-2, 0.3544, 0.3815), (0.1, 0.3603, 0.4059)],
)
def test_the_threshold_decides_as_measured(epoch, delta, alpha, beta):
    result = fit(epoch, "chinchilla", delta=delta)
    assert result.params["alpha"] == pytest.approx(alpha, abs=7e-4)
    assert result.params["beta"] == pytest.approx(beta, abs=2e-3)


def test_rounded_exponents_cost_three_times_the_objective(epoch):
    """Hoffmann's printed constants against those of the paper's source, by the same objective."""
    objective = fit(epoch, "chinchilla").problem.objective
    for name, value in (("hoffmann2022", 0.00123), ("hoffmann2022_rounded", 0.00412)):
        prediction = laws.published(name).predict(N=epoch["N"], D=epoch["D"])
        found = objective.value(objective.residual(prediction, epoch["loss"]))
        assert found == pytest.approx(value, abs=5e-6), name


def test_least_squares_profiles_exclude_the_robust_exponent_of_data(epoch):
    robust = fit(epoch, "chinchilla")
    curve = fit(epoch, "chinchilla", objective="log-l2").profile("beta")
    assert (curve.lower, curve.upper) == pytest.approx((0.39, 0.42), abs=6e-3)
    assert robust.params["beta"] < curve.lower - 0.01


def test_most_starts_of_the_literature_end_in_another_valley(epoch):
    """Uncentered, with exact gradients and tight tolerances; all five seeds find the optimum."""
    best = fit(epoch, "chinchilla")
    coords = replace(best.problem.coords, centered_terms=False)
    starts = list(hoffmann_starts())
    chosen = np.random.default_rng(0).choice(len(starts), 40, replace=False)
    ends = [
        descend(coords, best.problem.objective, coords.coordinates(starts[i])).objective
        for i in chosen
    ]
    assert min(ends) >= best.objective * (1 - 1e-9)
    assert np.mean(np.array(ends) < best.objective * (1 + 1e-6)) < 0.6
    assert np.median(ends) > 5 * best.objective
