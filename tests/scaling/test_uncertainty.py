"""Intervals: whether they cover, whether methods agree, and what the bootstrap depends on."""

import numpy as np
import pytest

from scaling import Dataset, fit, laws
from scaling.simulate import grid, simulate, typical
from scaling.uncertainty import bootstrap as boot
from scaling.uncertainty.profile import profile

TRUTH = typical("chinchilla")
FAR = {"N": np.array([7e10]), "D": np.array([1.4e12])}


def table(side: int, seed: int, noise: float = 0.003) -> Dataset:
    """Runs up to 3B parameters and 100B tokens."""
    design = grid(N=np.geomspace(1e8, 3e9, side), D=np.geomspace(2e9, 1e11, side))
    return simulate("chinchilla", TRUTH, design, noise=noise, seed=seed)


def coverage(side: int, worlds: int, objective: str, **options) -> tuple[float, float]:
    """Shares of worlds whose interval holds the loss at 70B/1.4T, and the exponent alpha."""
    expected = float(laws.get("chinchilla").predict(TRUTH, FAR)[0])
    hits = np.zeros(2)
    for seed in range(worlds):
        found = fit(table(side, seed), "chinchilla", objective=objective, **options)
        _, low, high = found.predict(FAR, ci=0.95)
        below, above = found.ci(0.95)["alpha"]
        hits += low[0] <= expected <= high[0], below <= TRUTH["alpha"] <= above
    return tuple(hits / worlds)


def test_delta_intervals_cover_an_extrapolation():
    # Three binomial standard deviations around 95 % in 120 worlds: .89.
    for share in coverage(4, 120, "log-l2"):
        assert 0.89 <= share <= 1.0


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["log-l2", "huber-log"])
@pytest.mark.parametrize("side", [3, 4, 6, 8])
def test_delta_intervals_cover_between_90_and_98_percent(side, objective):
    for share in coverage(side, 300, objective):
        assert 0.90 <= share <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("side", [4, 6, 8])
def test_bootstrap_intervals_cover_between_90_and_98_percent(side):
    for share in coverage(side, 300, "log-l2", bootstrap=200, workers=1):
        assert 0.90 <= share <= 0.98


@pytest.fixture(scope="module")
def drawn():
    return fit(table(5, 0), "chinchilla", objective="log-l2", bootstrap=60, seed=7)


def test_the_bootstrap_depends_on_its_seed_only(drawn, monkeypatch):
    again = fit(table(5, 0), "chinchilla", objective="log-l2", bootstrap=60, seed=7, workers=1)
    np.testing.assert_array_equal(again.draws.u, drawn.draws.u)
    other = fit(table(5, 0), "chinchilla", objective="log-l2", bootstrap=60, seed=8)
    assert np.abs(other.draws.u - drawn.draws.u).max() > 1e-3
    monkeypatch.setattr(boot, "_WORTHWHILE", 0.0)
    spread = fit(table(5, 0), "chinchilla", objective="log-l2", bootstrap=60, seed=7, workers=2)
    np.testing.assert_allclose(spread.draws.u, drawn.draws.u, rtol=1e-9)


def test_workers_know_laws_with_labels(monkeypatch):
    ds = simulate("decoupled_eff", noise=0.002)
    alone = fit(ds, "decoupled_eff", objective="log-l2", bootstrap=20, workers=1)
    monkeypatch.setattr(boot, "_WORTHWHILE", 0.0)
    spread = fit(ds, "decoupled_eff", objective="log-l2", bootstrap=20, workers=2)
    np.testing.assert_allclose(spread.draws.u, alone.draws.u, rtol=1e-9)


def test_a_law_of_ones_own_is_bootstrapped_in_this_process(monkeypatch):
    mine = laws.Law(
        name="mine",
        predictors=("N",),
        params=(laws.coefficient("A"), laws.exponent("alpha"), laws.coefficient("E")),
        terms=lambda p, x, xp: {"A": -p["alpha"] * xp.log(x["N"]), "E": 0.0},
    )
    monkeypatch.setattr(boot, "_WORTHWHILE", 0.0)
    truth = {"A": 185.0, "alpha": 0.26, "E": 1.76}
    ds = simulate(mine, truth, {"N": np.geomspace(1e8, 1e11, 20)}, noise=0.002)
    found = fit(ds, mine, objective="log-l2", bootstrap=40, workers=2)
    assert len(found.draws) == 40
    low, high = found.ci()["alpha"]
    assert low < 0.26 < high


def test_a_worker_that_fails_says_why(drawn, monkeypatch):
    monkeypatch.setattr(boot, "_WORTHWHILE", 0.0)
    monkeypatch.setattr(boot, "recipe", lambda law: ("no_such_law", {}))
    with pytest.raises(RuntimeError, match="No law is named"):
        fit(table(5, 0), "chinchilla", objective="log-l2", bootstrap=20, workers=2)


def test_methods_agree_on_a_good_design(drawn):
    by = {m: drawn.ci(0.95, method=m) for m in ("delta", "bootstrap", "profile")}
    for name in drawn.free:
        widths = {m: np.log(ci[name][1] / ci[name][0]) for m, ci in by.items()}
        assert widths["profile"] == pytest.approx(widths["delta"], rel=0.1), name
        assert 0.5 < widths["bootstrap"] / widths["delta"] < 1.6, name


@pytest.mark.parametrize("objective", ["l2", "log-l2"])
def test_predictions_of_a_linear_law_have_the_intervals_of_linear_regression(objective):
    """With its exponents held, Chinchilla's law is linear: textbook formulas are exact."""
    from scipy.stats import t

    ds, held = table(5, 0), {k: TRUTH[k] for k in ("alpha", "beta")}
    found = fit(ds, "chinchilla", objective=objective, fixed=held)

    def columns(x):
        sizes = [x["N"] ** -held["alpha"], x["D"] ** -held["beta"]]
        return np.stack([*sizes, np.ones(len(x["N"]))], -1)

    X, x = columns(ds), columns(FAR)
    target, value = ds["loss"], found.predict(FAR)
    if objective == "log-l2":  # relative errors: every row in units of its prediction
        X, x = X / found.predict(ds)[:, None], x / value[:, None]
        target = 1 + np.log(target / found.predict(ds))
    rss = np.linalg.lstsq(X, target, rcond=None)[1]
    variance = rss[0] / (25 - 3)
    mean = variance * (x @ np.linalg.solve(X.T @ X, x.T))[0, 0]
    for kind, total in (("mean", mean), ("new_run", mean + variance)):
        half = t.ppf(0.975, 25 - 3) * np.sqrt(total)
        _, low, high = found.predict(FAR, ci=0.95, kind=kind, method="delta")
        ends = value * np.exp([-half, half]) if objective == "log-l2" else value + [-half, half]
        assert (low[0], high[0]) == pytest.approx(tuple(ends), rel=1e-6)


def test_intervals_nest_and_new_runs_are_wider(drawn):
    narrow, wide = drawn.ci(0.5, method="delta"), drawn.ci(0.95, method="delta")
    for name in drawn.free:
        assert wide[name][0] < narrow[name][0] < narrow[name][1] < wide[name][1]
    for method in ("delta", "bootstrap"):
        _, low, high = drawn.predict(FAR, ci=0.95, method=method)
        _, lower, higher = drawn.predict(FAR, ci=0.95, kind="new_run", method=method)
        assert lower < low < high < higher


def test_correlations_are_those_of_a_power_law(drawn):
    assert drawn.corr["alpha", "alpha"] == pytest.approx(1)
    assert drawn.corr["A", "alpha"] > 0.9
    assert drawn.corr["A", "alpha"] == pytest.approx(drawn.corr["alpha", "A"])


def test_derived_quantities_transform_draws(drawn):
    value, low, high = drawn.derived("a", ci=0.95)
    draws = drawn.sample()
    share = draws["beta"] / (draws["alpha"] + draws["beta"])
    assert low < np.percentile(share, 2.5) < np.percentile(share, 97.5) < high
    assert low < value < high
    twice = drawn.derived(lambda params, factor: factor * params["E"], factor=2.0)
    assert twice == 2 * drawn.params["E"]
    with pytest.raises(ValueError, match="derives"):
        drawn.derived("D_crit")


def test_an_open_profile_is_said():
    """With E far below the smallest loss nothing bounds it from below."""
    params = {"A": 40.0, "B": 300.0, "E": 1e-3, "alpha": 0.12, "beta": 0.3}
    design = grid(N=np.geomspace(3e7, 8e8, 5), D=np.geomspace(1e9, 5e10, 5))
    found = fit(simulate("chinchilla", params, design, noise=0.003), "chinchilla",
                objective="log-l2")  # fmt: skip
    curve = profile(found, "E")
    assert curve.open_lower
    assert not curve.open_upper
    assert (np.diff(curve.values) > 0).all()
    assert curve.ratio.min() == 0
    assert not profile(found, "beta").open_lower
    with pytest.raises(ValueError, match="Only free"):
        profile(fit(table(5, 0), "chinchilla", fixed={"E": 1.8}), "E")


def test_percentiles_of_normal_draws_are_students_interval(drawn):
    """25 rows: a mean's draws have the standard deviation sqrt(24/25) s."""
    from scipy.stats import norm, t

    values = norm.ppf((np.arange(100_000) + 0.5) / 100_000) * np.sqrt(24 / 25)
    assert drawn.draws.units == 25
    assert drawn.central(values, 0.9)[1] == pytest.approx(t.ppf(0.95, 24), rel=1e-4)
    plain = fit(table(5, 0), "chinchilla")
    assert plain.central(values, 0.9)[1] == pytest.approx(
        np.sqrt(24 / 25) * t.ppf(0.95, 25 - 5), rel=1e-4
    )
    grouped = fit(table(5, 0).assign(g=np.arange(25) % 5), "chinchilla", group="g", bootstrap=3)
    assert grouped.draws.units == 5


def test_a_hundred_draws_have_tails_as_long_as_many(drawn):
    """The interval of 99 uniform draws is on average as long as the share of them it stands for."""
    from scipy.stats import norm, t

    low, high = drawn.central(np.random.default_rng(0).random((99, 4000)), 0.9)
    share = 2 * norm.cdf(np.sqrt(25 / 24) * t.ppf(0.95, 24)) - 1
    assert (high - low).mean() == pytest.approx(share, abs=2e-3)


def test_groups_are_drawn_whole():
    groups = np.repeat(["a", "b", "c", "d"], 3)
    weights = boot.resampling_weights(12, 50, 0, groups)
    assert (weights.reshape(50, 4, 3) == weights.reshape(50, 4, 3)[:, :, :1]).all()
    assert (weights[:, ::3].sum(1) == 4).all()
    with pytest.raises(ValueError, match="at least 2 groups"):
        boot.resampling_weights(3, 5, 0, np.array(["a", "a", "a"]))


def test_repeated_seeds_of_one_configuration_need_the_cluster_bootstrap():
    """Reruns that share their configuration's misfit are not independent rows."""
    once = table(5, 0, noise=0.006)
    rows = np.repeat(np.arange(len(once)), 4)
    jitter = np.exp(np.random.default_rng(1).normal(0, 3e-4, len(rows)))
    reruns = once.take(rows)
    reruns = reruns.assign(loss=reruns["loss"] * jitter, group=rows.astype(str))
    options = {"objective": "log-l2", "bootstrap": 60, "workers": 1}
    naive = fit(reruns, "chinchilla", **options).errors()
    honest = fit(reruns, "chinchilla", group="group", **options).errors()
    assert honest["alpha"] > 1.5 * naive["alpha"]


def test_intervals_that_were_not_drawn_are_refused(drawn):
    plain = fit(table(5, 0), "chinchilla")
    with pytest.raises(ValueError, match="No bootstrap was drawn"):
        plain.ci(method="bootstrap")
    with pytest.raises(ValueError, match="method must be"):
        plain.ci(method="magic")
    with pytest.raises(ValueError, match="level must be"):
        plain.ci(95)
    with pytest.raises(ValueError, match="kind must be"):
        plain.predict(FAR, ci=0.9, kind="run")
