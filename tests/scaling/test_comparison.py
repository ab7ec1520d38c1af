"""Comparing laws: splits, criteria, and what happens to a law that cannot be fitted."""

import math

import numpy as np
import pytest

from scaling import compare, fit, laws
from scaling.comparison import aicc, bic, likelihood_ratio, title
from scaling.simulate import simulate
from scaling.splits import folds


@pytest.fixture(scope="module")
def runs():
    return simulate("kumar_equal", noise=0.003, seed=2)


def test_splits_hold_out_what_they_say(runs):
    largest = folds(runs, "holdout:N:max")[0].test
    assert (runs["N"][largest] == runs["N"].max()).all()
    assert largest.sum() == (runs["N"] == runs["N"].max()).sum()
    compute = folds(runs, "holdout:C:max")[0].test
    assert compute.sum() == len(np.unique(runs["P"]))
    assert (folds(runs, "holdout:P<=4")[0].test == (runs["P"] <= 4)).all()
    by_bits = folds(runs, "group:P")
    assert [f.name for f in by_bits] == [f"P={p}" for p in np.unique(runs["P"])]
    parts = folds(runs, "kfold:5", seed=1)
    assert (sum(f.test.astype(int) for f in parts) == 1).all()
    assert (folds(runs, "kfold:5", seed=2)[0].test != parts[0].test).any()


@pytest.mark.parametrize(
    "split", ["", "holdout", "holdout:N", "holdout:Q:max", "holdout:N>many", "holdout:N>1e99",
              "kfold:1", "kfold:9999", "group:", "jackknife:3"]
)  # fmt: skip
def test_splits_that_make_no_sense_are_refused(runs, split):
    with pytest.raises(ValueError, match=r"split|column|condition"):
        folds(runs, split)


def test_criteria_are_their_formulas(runs):
    found = fit(runs, "kumar_equal", objective="log-l2")
    n, k = len(runs), 8
    rss = (found.log_residuals**2).sum()
    assert aicc(found) == pytest.approx(
        n * math.log(rss / n) + 2 * k + 2 * k * (k + 1) / (n - k - 1)
    )
    assert bic(found) == pytest.approx(n * math.log(rss / n) + k * math.log(n))


def test_nested_laws_are_told_apart_by_their_likelihood(runs):
    large = fit(runs, "kumar_equal", objective="log-l2")
    small = fit(runs, laws.get("kumar_equal", shifts=False), objective="log-l2")
    ratio, p = likelihood_ratio(small, large)
    assert ratio > 100
    assert p < 1e-9
    plain = simulate(laws.get("kumar_equal", shifts=False), {**_unshifted()}, noise=0.003, seed=5)
    pair = [
        fit(plain, laws.get("kumar_equal", shifts=s), objective="log-l2") for s in (False, True)
    ]
    ratio, p = likelihood_ratio(*pair)
    assert 0 <= ratio < 12
    assert p > 5e-4
    with pytest.raises(ValueError, match="more free parameters"):
        likelihood_ratio(large, small)
    with pytest.raises(ValueError, match="same rows"):
        likelihood_ratio(small, pair[1])


def _unshifted() -> dict[str, float]:
    base = laws.published("kumar2024_qat").params
    return {k: base[k] for k in ("A", "B", "E", "alpha", "beta")} | {"gamma": 2.2, "n": 0.0}


def test_a_law_that_cannot_be_fitted_has_a_reason_and_the_last_place(runs):
    few = runs.take(slice(0, 6))
    varied = few.assign(N=np.geomspace(1e8, 1e9, 6), D=np.geomspace(1e10, 1e9, 6))
    table = compare(varied, ["kumar_equal", "chinchilla"])
    assert table.ranking == ("chinchilla", "kumar_equal")
    assert table["kumar_equal"].fit is None
    assert "cannot determine" in table.to_markdown()


def test_options_reach_only_the_laws_that_have_them(runs):
    table = compare(
        runs, ["chinchilla", "kumar_equal"], fixed={"gamma": 2.2102}, tie=("alpha", "beta")
    )
    assert table["kumar_equal"].fit.params["gamma"] == 2.2102
    assert len(table["chinchilla"].fit.free) == 4


def test_titles_name_what_differs_from_the_default():
    assert title(laws.get("kumar_qat")) == "kumar_qat"
    assert title(laws.get("kumar_qat", shifts=False)) == "kumar_qat(shifts=False)"
    assert title(laws.get("kumar_equal", factors=1)) == "kumar_equal(factors=1)"


def test_nothing_to_compare_is_refused(runs):
    with pytest.raises(ValueError, match="at least one"):
        compare(runs, [])
    with pytest.raises(ValueError, match="No law is named"):
        compare(runs, ["chinchila"])
