"""Pitfalls that changed published answers, each as a test that this fit does not fall into it."""

import numpy as np
import pytest

from scaling import Dataset, fit, laws
from scaling.fitting.coordinates import Coordinates
from scaling.fitting.diagnosis import diagnose
from scaling.fitting.objectives import NAMES, Objective
from scaling.fitting.polish import End, polish
from scaling.fitting.seeding import low_discrepancy, nonnegative_least_squares
from scaling.simulate import grid, simulate, typical

DESIGN = grid(N=np.geomspace(5e7, 1.6e10, 6), D=np.geomspace(1e9, 3e11, 6))


@pytest.fixture(scope="module")
def noisy() -> Dataset:
    return simulate("chinchilla", design=DESIGN, noise=0.003, seed=3)


@pytest.fixture(scope="module")
def reference(noisy):
    return fit(noisy, "chinchilla")


def test_a_mean_instead_of_a_sum_changes_nothing(noisy, reference):
    mean = fit(noisy, "chinchilla", weights=np.full(len(noisy), 1 / len(noisy)))
    assert mean.params == pytest.approx(reference.params, rel=1e-6)
    assert mean.objective * len(noisy) == pytest.approx(reference.objective, rel=1e-9)


def test_a_general_optimizer_stops_early_where_this_fit_does_not(epoch):
    """From Hoffmann's own start SciPy's defaults stop above the optimum, on the mean soonest."""
    from scipy.optimize import minimize

    log_n, log_d, log_l = (np.log(epoch[k]) for k in ("N", "D", "loss"))
    objective = Objective()

    def total(t):
        terms = [t[0] - t[3] * log_n, t[1] - t[4] * log_d, t[2] + 0 * log_n]
        return objective.value(np.logaddexp.reduce(terms) - log_l)

    start = np.array([6.0073404, 6.0179186, 0.5267228, 0.33917084, 0.2849083])
    mean = minimize(lambda t: total(t) / len(epoch), start, method="L-BFGS-B").x
    plain = minimize(total, start, method="L-BFGS-B").x
    best = fit(
        epoch, "chinchilla", method="start", start=laws.published("hoffmann2022").params
    ).objective
    assert best == pytest.approx(0.0010182740178, rel=1e-8)
    assert total(mean) > 1.1 * best
    assert total(plain) > 1.02 * best


@pytest.mark.parametrize("name", ["chinchilla", "kumar_qat", "sun_fp", "gadre"])
def test_units_change_nothing_but_amplitudes(name):
    ds = simulate(name, noise=0.003, seed=1)
    first = fit(ds, name)
    other = fit(ds.assign(N=ds["N"] / 1e6, D=ds["D"] / 1e9), name)
    for key in ("alpha", "beta", "E", "epsilon", "eta", "gamma_w", "delta", "nu"):
        if key in first.params:
            assert other.params[key] == pytest.approx(first.params[key], rel=1e-6), key
    assert other.objective == pytest.approx(first.objective, rel=1e-9)
    assert "units_suspect" in {w.code for w in other.warnings}


def test_row_order_changes_nothing(noisy, reference):
    order = np.random.default_rng(0).permutation(len(noisy))
    shuffled = fit(noisy.take(order), "chinchilla")
    assert shuffled.params == pytest.approx(reference.params, rel=1e-7)
    assert shuffled.objective == pytest.approx(reference.objective, rel=1e-10)


def test_the_same_call_gives_the_same_bits(noisy, reference):
    again = fit(noisy, "chinchilla")
    assert again.params == reference.params
    assert again.starts == reference.starts


def test_all_seeds_agree(reference):
    assert reference.agreeing == len(reference.starts) == 5


def test_centered_and_plain_coefficients_reach_the_same_optimum(noisy, reference):
    plain = fit(noisy, "chinchilla", center=False)
    assert plain.params == pytest.approx(reference.params, rel=1e-4)
    assert plain.objective == pytest.approx(reference.objective, rel=1e-8)
    assert plain.covariance.condition > 4 * reference.covariance.condition


def test_an_optimizer_that_returns_its_start_is_caught(reference):
    stuck = End(u=reference.u, objective=reference.objective, converged=True, evaluations=1,
                gradient=0.3, moved=0.0)  # fmt: skip
    found = {f.code: f for f in diagnose(reference, [stuck])}
    assert found["start_not_moved"].severity == "error"
    assert "start_not_moved" not in {w.code for w in reference.warnings}


def test_an_optimizer_that_runs_out_is_caught(noisy, reference):
    coords, objective = reference.problem.coords, reference.problem.objective
    far = coords.coordinates(typical("chinchilla") | {"alpha": 0.9, "beta": 0.05})
    short = polish(coords, objective, far, max_evaluations=2)
    assert not short.converged
    assert "no_convergence" in {f.code for f in diagnose(reference, [short])}


def test_a_start_in_the_wrong_valley_is_not_the_answer():
    ds = simulate("kumar_lp", noise=0.003)
    wrong = typical("kumar_lp") | {"n_w": -2.5, "gamma_w": 40.0, "n_kv": -2.5, "gamma_kv": 30.0}
    one = fit(ds, "kumar_lp", method="start", start=wrong)
    assert fit(ds, "kumar_lp").objective <= one.objective * (1 + 1e-9)


def test_outliers_are_named_by_line(noisy):
    loss = noisy["loss"].copy()
    loss[[4, 20]] *= 1.2
    result = fit(noisy.assign(loss=loss), "chinchilla")
    found = next(w for w in result.warnings if w.code == "outliers")
    assert set(found.details["lines"]) == {5, 21}
    assert result.params["alpha"] == pytest.approx(typical("chinchilla")["alpha"], rel=0.1)


def test_even_noise_is_not_called_uneven_but_uneven_noise_is():
    design = grid(N=np.geomspace(5e7, 1.6e10, 12), D=np.geomspace(1e9, 3e11, 12))
    even = simulate("chinchilla", design=design, noise=0.003)
    assert "uneven_noise" not in {w.code for w in fit(even, "chinchilla").warnings}
    # The small and short runs decide about the exponents; there the noise is ten times larger.
    far = (design["N"] < 2e8) | (design["D"] < 4e9)
    noise = np.random.default_rng(0).normal(0, np.where(far, 0.01, 0.001))
    clean = simulate("chinchilla", design=design)
    uneven = clean.assign(loss=clean["loss"] * np.exp(noise))
    found = fit(uneven, "chinchilla")
    assert "uneven_noise" in {w.code for w in found.warnings}


def test_effective_size_above_one_is_said():
    params = typical("decoupled_eff") | {"eff_INT8": 1.14}
    result = fit(simulate("decoupled_eff", params), "decoupled_eff")
    found = next(w for w in result.warnings if w.code == "eff_above_one")
    assert found.details["parameters"] == ["eff_INT8"]


def test_duplicates_narrow_intervals_and_are_said(noisy, reference):
    twice = noisy.take(np.tile(np.arange(len(noisy)), 2))
    result = fit(twice, "chinchilla", objective="log-l2")
    once = fit(noisy, "chinchilla", objective="log-l2")
    assert result.params == pytest.approx(once.params, rel=1e-6)
    assert result.errors()["alpha"] < 0.75 * once.errors()["alpha"]
    assert "duplicates" in {w.code for w in result.warnings}


def test_fixed_tied_and_bounded_parameters_are_respected(noisy):
    held = fit(noisy, "chinchilla", fixed={"beta": 0.5})
    assert held.params["beta"] == 0.5
    assert "beta" not in held.free
    assert held.ci()["beta"] == (0.5, 0.5)
    tied = fit(noisy, "chinchilla", tie=("alpha", "beta"))
    assert tied.params["alpha"] == tied.params["beta"]
    assert len(tied.free) == 4
    assert tied.ci()["alpha"] == tied.ci()["beta"]
    bounded = fit(noisy, "chinchilla", bounds={"alpha": (0.4, 0.6)})
    assert bounded.params["alpha"] == pytest.approx(0.4, abs=1e-4)
    assert "parameter_at_bound" in {w.code for w in bounded.warnings}
    assert held.objective > fit(noisy, "chinchilla").objective


def test_one_free_parameter_is_fitted_and_profiled(noisy, reference):
    others = {k: v for k, v in reference.params.items() if k != "alpha"}
    lone = fit(noisy, "chinchilla", fixed=others)
    assert lone.free == ("alpha",)
    assert lone.params["alpha"] == pytest.approx(reference.params["alpha"], rel=1e-6)
    low, high = lone.ci(method="profile")["alpha"]
    assert low < lone.params["alpha"] < high
    with pytest.raises(ValueError, match="nothing is left to fit"):
        fit(noisy, "chinchilla", fixed=reference.params)


def test_weights_of_zero_leave_rows_out(noisy):
    keep = np.arange(len(noisy)) % 5 != 0
    weighted = fit(noisy, "chinchilla", weights=keep.astype(float))
    subset = fit(noisy.take(keep), "chinchilla")
    assert weighted.params == pytest.approx(subset.params, rel=1e-5)
    with pytest.raises(ValueError, match="weights must be finite"):
        fit(noisy, "chinchilla", weights=-keep.astype(float))


@pytest.mark.parametrize("objective", NAMES)
def test_every_objective_finds_an_exact_law(objective):
    result = fit(simulate("chinchilla", design=DESIGN), "chinchilla", objective=objective)
    assert result.params == pytest.approx(typical("chinchilla"), rel=1e-4)


def test_the_asymmetric_objective_follows_the_lower_envelope():
    """Runs that are not well tuned lie above the law, never below."""
    clean = simulate("chinchilla", design=DESIGN)
    worse = np.abs(np.random.default_rng(0).normal(0, 0.03, len(clean)))
    ds = clean.assign(loss=clean["loss"] * (1 + worse))
    middle = fit(ds, "chinchilla", objective="huber-lin")
    lower = fit(ds, "chinchilla", objective="mae-asym", asymmetry=10.0)
    truth = clean["loss"]
    assert (
        np.abs(lower.predict(ds) - truth).mean() < 0.5 * np.abs(middle.predict(ds) - truth).mean()
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"objective": "mse"}, "objective must be one of"),
        ({"method": "magic"}, "method must be one of"),
        ({"method": "start"}, "needs start"),
        ({"fixed": {"zeta": 1.0}}, "no parameter 'zeta'"),
        ({"fixed": {"A": -1.0}}, "lies outside"),
        ({"tie": ("alpha",)}, "at least two"),
        ({"tie": ("alpha", "A")}, "mixes"),
        ({"tie": ("alpha", "beta"), "fixed": {"alpha": 0.3}}, "both fixed and tied"),
        ({"bounds": {"alpha": (0.5, 0.2)}}, "not ordered"),
        ({"weights": "w"}, "no column 'w'"),
        ({"weights": [1.0]}, "one value per row"),
        ({"delta": 0.0}, "delta must be positive"),
        ({"group": "missing"}, "no column 'missing'"),
    ],
)
def test_what_cannot_be_asked_is_answered_in_a_sentence(noisy, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        fit(noisy, "chinchilla", **options)


def test_nonnegative_least_squares_agrees_with_scipys():
    from scipy.optimize import nnls

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 12, 4)), rng.normal(size=12)
    gram = np.einsum("gnk,gnl->gkl", x, x)
    moment = np.einsum("gnk,n->gk", x, y)
    found, rss = nonnegative_least_squares(gram, moment, float(y @ y))
    for i in range(40):
        expected, error = nnls(x[i], y)
        np.testing.assert_allclose(found[i], expected, atol=1e-9)
        assert rss[i] == pytest.approx(error**2, rel=1e-9)


def test_search_points_fill_the_cube():
    points = low_discrepancy(4096, 5)
    assert points.shape == (4096, 5)
    counts, _ = np.histogramdd(points, bins=2, range=[(0, 1)] * 5)
    assert counts.min() > 0.85 * 4096 / 32


def test_coordinates_do_not_move_what_the_data_cannot_see():
    law = laws.get("chinchilla")
    ds = simulate("chinchilla", design=DESIGN)
    coords = Coordinates(law=law, x=ds.predictors(law), y=ds["loss"], fixed={"alpha": 0.3})
    assert coords.free == ("A", "B", "E", "beta")
    assert (
        coords.natural(coords.coordinates(typical("chinchilla") | {"alpha": 0.3}))["alpha"] == 0.3
    )
