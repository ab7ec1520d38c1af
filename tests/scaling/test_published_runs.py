"""Gadre's over-training runs, the rank of Panferov's capacities, and ParetoQ's four bits."""

import json

import numpy as np
import pytest

from scaling import Dataset, fit, laws

#: Training set: a, b, E, eta, and the residual sum of squares over the five small runs.
EXPECTED = {
    "c4_original": ("gadre2024_c4", 4.1412e-4),
    "rpj": ("gadre2024_redpajama", 4.2565e-4),
    "rw_original": ("gadre2024_refinedweb", 8.2444e-5),
}


def runs(data, training_set: str) -> tuple[Dataset, Dataset]:
    """Returns the five small runs that the paper fits, and all runs of a training set."""
    ds = Dataset.read_csv(data("gadre_overtraining/loss_evals.csv"))
    ds = ds.take((ds["val"] == "c4_val") & (ds["train_dataset"] == training_set))
    ratio = 20 * ds["multiplier"]
    small = np.zeros(len(ds), bool)
    for size, tokens in ((11e6, 20), (79e6, 20), (154e6, 20), (412e6, 20), (11e6, 320)):
        small |= (np.abs(np.log(ds["N"] / size)) < 0.05) & (ratio == tokens)
    return ds.take(small), ds


@pytest.mark.parametrize("training_set", EXPECTED)
def test_the_published_coefficients_follow_from_five_small_runs(data, training_set):
    small, _ = runs(data, training_set)
    assert len(small) == 5
    result = fit(small, "gadre", objective="l2")
    name, rss = EXPECTED[training_set]
    published = laws.published(name).params
    for key, value in published.items():
        assert result.params[key] == pytest.approx(value, abs=0.06 if value > 10 else 6e-4), key
    assert 2 * result.objective == pytest.approx(rss, rel=1e-4)


def test_held_out_errors_match_to_all_digits(data):
    small, everything = runs(data, "rpj")
    result = fit(small, "gadre", objective="l2")
    error = 100 * np.abs(result.predict(everything) / everything["loss"] - 1)
    big = everything["N"] > 5e9
    over = (everything["N"] > 1e9) & (everything["multiplier"] == 32)
    assert error[over] == pytest.approx([0.7103], abs=5e-5)
    assert error[big & (everything["multiplier"] == 1)] == pytest.approx([0.7320], abs=5e-5)


def test_paretoqs_four_bits_beat_sixteen_and_it_is_said(data):
    """Its 4-bit models were tuned longer; a fit of effective sizes turns that into eff > 1."""
    names = {"N": "N_nominal", "fmt": "bits"}
    table = Dataset.read_csv(data("paretoq/mobilellm_paretoq.csv"), map=names)
    columns = {k: table[k] for k in ("N", "fmt")}
    loss = np.log(table["wiki_ppl"])
    # One data size: its term is part of the irreducible loss.
    ds = Dataset(columns | {"loss": loss, "D": np.full(len(table), 3e10)})
    held = {"B": 1e-9, "beta": 0.3}
    result = fit(ds, "decoupled_eff", objective="log-l2", fixed=held)
    assert result.params["eff_4.0"] == pytest.approx(1.14, abs=0.01)
    found = {w.code: w for w in result.warnings}["eff_above_one"]
    assert found.details["parameters"] == ["eff_4.0"]


def test_capacity_is_a_product_of_weights_and_activations(data):
    table = Dataset.read_csv(data("published/panferov2025_capacity.csv"))
    table = table.take(table["table"] == "fig6_WxA_bits")
    rows, columns = np.unique(table["row"]), np.unique(table["col"])
    matrix = np.zeros((5, 5))
    for r, c, rho in zip(table["row"], table["col"], table["rho"]):
        matrix[np.searchsorted(rows, r), np.searchsorted(columns, c)] = rho
    singular = np.linalg.svd(matrix, compute_uv=False)
    assert singular[0] ** 2 / (singular**2).sum() == pytest.approx(0.99847, abs=5e-6)
    product = matrix[:, -1:] * matrix[-1:, :]
    worst = np.unravel_index(np.argmax(np.abs(product - matrix)), matrix.shape)
    assert (rows[worst[0]], columns[worst[1]]) == (2, 2)
    assert np.abs(product - matrix).max() == pytest.approx(0.084, abs=5e-4)


def test_published_constants_are_those_typed_from_the_papers(data):
    """Typed a second time, from the papers' text, into another file under other names."""
    typed = json.loads(data("published/constants.json").read_text())
    other = {"beta_D": "beta", "alpha_N": "alpha", "gamma_P": "gamma"}
    chen, gadre = typed["chen2025_qat"], typed["gadre2024_c4eval"]
    sheets = {
        "kaplan2020_n": typed["kaplan2020"]["L(N)"],
        "kaplan2020_d": typed["kaplan2020"]["L(D)"],
        "hoffmann2022_rounded": typed["hoffmann2022_approach3"],
        "besiroglu2024": typed["besiroglu2024"],
        "kumar2024": typed["kumar2024"],
        "kumar2024_ptq": typed["kumar2024"],
        "sun2025": typed["sun2025"],
        "chen2025_base": chen["chinchilla"],
        "ouyang2024": {other.get(k, k): v for k, v in typed["ouyang2024_qid"].items()},
        "spectra2024_trilm": typed["spectra2024"]["TriLM"],
        "spectra2024_floatlm": typed["spectra2024"]["FloatLM"],
        "spectra2025_trilm": typed["spectra1.1_2025_TriLM"],
        "quest2025": typed["quest2025"]
        | {f"eff_{k}": v for k, v in typed["quest2025"]["eff"].items()},
    }
    sheets |= {f"gadre2024_{k}": gadre[k] for k in gadre}
    sheets |= {f"chen2025_{k.lower()}": v for k, v in chen.items() if isinstance(v, dict)}
    del sheets["chen2025_chinchilla"]
    for name, sheet in sheets.items():
        for key, value in laws.published(name).params.items():
            assert value == pytest.approx(sheet[key], rel=1e-12), (name, key)
    assert len(sheets) >= 20
