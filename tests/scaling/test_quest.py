"""QuEST's runs: the published law of 22 parameters, and which law extrapolates best."""

import numpy as np
import pytest

from scaling import Dataset, compare, fit, laws
from scaling.capacity import gmse_uniform

RANKING = (
    "decoupled_eff",
    "capacity_tanh",
    "capacity_logistic",
    "kumar_equal(factors=1)",
    "kumar_equal(factors=2, shifts=False)",
    "kumar_equal(factors=1, shifts=False)",
    "chinchilla",
)


@pytest.fixture(scope="module")
def quest(data) -> Dataset:
    return Dataset.read_csv(data("quest/runs.csv"))


@pytest.fixture(scope="module")
def same_bits(quest) -> Dataset:
    """Runs whose weights and activations have the same bits."""
    rows = quest.take(np.isin(quest["fmt"], ["1", "2", "3", "4", "8", "16"]))
    bits = rows["fmt"].astype(int)
    return rows.assign(P=bits, GMSE=[gmse_uniform(int(k)) for k in bits])


@pytest.fixture(scope="module")
def ranking(same_bits):
    chosen = ["decoupled_eff", "capacity_tanh", "capacity_logistic", "chinchilla"]
    kumar = [{"factors": 1}, {"factors": 1, "shifts": False}, {"factors": 2, "shifts": False}]
    chosen += [laws.get("kumar_equal", **options) for options in kumar]
    return compare(same_bits, chosen, cv=["holdout:N>2.5e8", "holdout:P=3"])


def test_the_published_law_is_the_least_squares_optimum(quest):
    assert len(quest) == 104
    result = fit(quest, "decoupled_eff", objective="log-l2")
    published = laws.published("quest2025").params
    assert set(result.params) == set(published)
    assert result.objective == pytest.approx(7.3805e-4, rel=1e-4)
    prediction = laws.published("quest2025").law.predict(published, quest.columns)
    there = 0.5 * (np.log(prediction / quest["loss"]) ** 2).sum()
    assert there == pytest.approx(7.3843e-4, rel=1e-4)
    for name, value in published.items():
        if name.startswith("eff"):
            assert result.params[name] == pytest.approx(value, abs=1e-3), name
    assert result.params["alpha"] == pytest.approx(published["alpha"], abs=2e-4)
    assert result.params["beta"] == pytest.approx(published["beta"], abs=2e-4)
    assert result.params["A"] == pytest.approx(published["A"], rel=1e-3)
    assert result.params["B"] == pytest.approx(published["B"], rel=1e-3)
    found = {w.code: w for w in result.warnings}
    assert found["not_identified"].severity == "error"
    assert found["not_identified"].details["parameters"] == ["E"]
    assert found["eff_above_one"].details["parameters"] == ["eff_8"]


def test_laws_rank_as_measured(ranking):
    assert ranking.ranking == RANKING
    table = {name: ranking[name] for name in RANKING}
    rms = [0.00345, 0.00423, 0.0077, 0.01246, 0.01498, 0.0276, 0.0650]
    assert [table[n].fit.rms for n in RANKING] == pytest.approx(rms, rel=0.03)
    aicc = [-583.9, -571.2, -506.0, -454.4, -437.3, -371.2, -281.3]
    assert [table[n].aicc for n in RANKING] == pytest.approx(aicc, abs=0.5)
    assert [len(table[n].fit.free) for n in RANKING] == [10, 7, 7, 7, 6, 6, 5]
    assert ranking.n == 54


def test_larger_runs_are_predicted_as_measured(ranking):
    found = [ranking[n].held_out["holdout:N>2.5e8"] for n in RANKING]
    assert found == pytest.approx(
        [0.0058, 0.0066, 0.0148, 0.0160, 0.0298, 0.0530, 0.0972], rel=0.03
    )


def test_a_precision_that_was_left_out_is_predicted_as_measured(ranking):
    found = [ranking[n].held_out["holdout:P=3"] for n in RANKING[1:6]]
    assert found == pytest.approx([0.0043, 0.0145, 0.0099, 0.0176, 0.0276], rel=0.03)
    assert np.isnan(ranking["decoupled_eff"].held_out["holdout:P=3"])
    assert "cannot know" in ranking.to_markdown()


def test_capacity_parameters_are_as_measured(ranking):
    params = ranking["capacity_tanh"].fit.params
    assert params["F"] == pytest.approx(0.412, abs=2e-3)
    assert params["C"] == pytest.approx(3.20, abs=0.02)


def test_permuted_bits_do_not_beat_a_law_without_bits(same_bits):
    shuffled = np.random.default_rng(0).permutation(same_bits["P"])
    noise = same_bits.assign(P=shuffled)
    table = compare(noise, ["chinchilla", "kumar_equal"], cv=["kfold:3"])
    plain = table["chinchilla"].held_out["kfold:3"]
    assert table["kumar_equal"].held_out["kfold:3"] > 0.9 * plain


@pytest.mark.parametrize("name", ["beta", "gamma"])
def test_profiles_follow_a_bent_valley_to_their_threshold(same_bits, name):
    """The ends are confirmed by full searches with the parameter held there.

    Without an irreducible loss the valley is long and bent: a refit that starts too far away ends
    in another one, and its jump is no crossing of the threshold.
    """
    law, options = laws.get("kumar_equal", factors=1), {"objective": "log-l2"}
    best = fit(same_bits, law, **options)
    curve = best.profile(name)
    assert not curve.open_lower
    assert not curve.open_upper
    for end in (curve.lower, curve.upper):
        held = fit(same_bits, law, fixed={name: end}, **options)
        ratio = 2 * (held.objective - best.objective) / best.covariance.tau2
        assert ratio == pytest.approx(curve.threshold, rel=2e-3)
