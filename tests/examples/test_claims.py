"""The claims harness: verdicts are computed, rows are kept, and every claim is complete."""

import math

import numpy as np
import pytest

from examples.claims import __main__ as runner
from examples.claims import report, rows, settings
from examples.claims.claim import Better, Claim, Near, paired
from examples.claims.training import train_arms
from qjax import recipes, train
from qjax.recipes import catalogue

CLAIMS = runner.claims()


def claim(figures=None, **changes):
    fields = {
        "name": "test",
        "method": "hbfp",
        "says": "Says.",
        "published": "1",
        "evidence": "paper",
        "setting": "Here.",
        "figure": "loss",
        "run": lambda seeds: figures,
        "expects": (Better(better="a", worse="b"),),
    }
    return Claim(**{**fields, **changes})


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        ([1.0, 1.1, 1.0], [2.0, 2.1, 2.1], "holds"),
        ([2.0, 2.1, 2.1], [1.0, 1.1, 1.0], "does not hold"),
        ([1.0, 2.0, 1.0], [2.0, 1.1, 1.1], "within noise"),
        ([1.0, 1.1, 1.0], [2.0, math.nan, 2.0], "holds"),
        ([1.0, 1.1, math.inf], [2.0, 2.0, 2.0], "within noise"),
        ([1.0, 1.1, math.inf], [0.9, 0.9, 0.9], "does not hold"),
        ([1.0, 1.1, math.inf], [0.9, math.nan, 0.9], "within noise"),
        ([math.nan] * 3, [1.0, 1.0, 1.0], "does not hold"),
    ],
)
def test_one_arm_is_better_where_its_interval_says_so(a, b, verdict):
    figures = {"a": a, "b": b}
    assert claim().verdict(figures) == verdict
    higher = {arm: [-v for v in values] for arm, values in figures.items()}
    assert claim(lower_is_better=False).verdict(higher) == verdict


def test_nearness_needs_the_whole_interval_within_the_margin():
    near = claim(expects=(Near(arm="a", reference="b", margin=0.5),))
    assert near.verdict({"a": [1.1, 1.2, 1.1], "b": [1.0, 1.0, 1.0]}) == "holds"
    assert near.verdict({"a": [0.1, 0.2, 0.1], "b": [1.0, 1.0, 1.0]}) == "holds", "better is near"
    assert near.verdict({"a": [1.1, 1.9, 1.1], "b": [1.0, 1.0, 1.0]}) == "within noise"
    assert near.verdict({"a": [2.1, 2.2, 2.1], "b": [1.0, 1.0, 1.0]}) == "does not hold"


def test_the_interval_is_that_of_student():
    from scipy import stats

    draw = np.random.default_rng(0)
    one, other = draw.normal(size=(2, 6))
    found = paired(one, other)
    low, high = stats.ttest_rel(one, other).confidence_interval(0.95)
    assert found.low == pytest.approx(low)
    assert found.high == pytest.approx(high)


def test_two_seeds_are_too_few():
    with pytest.raises(ValueError, match=r"at least 3 common seeds.*Run every arm"):
        paired(np.ones(2), np.ones(2))


def test_a_row_is_kept_until_seeds_or_the_file_change(tmp_path, monkeypatch):
    made = claim({"a": [1.0, 1.0, 1.1], "b": [2.0, 2.0, math.nan]})
    assert rows.done(made, [0, 1, 2], tmp_path) is None
    row = rows.run(made, [0, 1, 2], tmp_path)
    assert rows.done(made, [0, 1, 2], tmp_path)["figures"]["a"] == row["figures"]["a"]
    assert rows.done(made, [0, 1, 2, 3], tmp_path) is None
    text = report.document([(made, row)], "command")
    assert "| `hbfp` | [Says.](#test) | 1 | paper | **holds** |" in text
    assert "2 (1 of 3 diverged)" in text
    monkeypatch.setattr(rows, "source", lambda claim: "other")
    assert rows.done(made, [0, 1, 2], tmp_path) is None


def test_rows_from_before_a_file_changed_are_left_out_of_the_table(tmp_path, monkeypatch, capsys):
    kept = claim({"a": [1.0, 1.0, 1.1], "b": [2.0, 2.0, 2.1]})
    changed = claim({"other": [1.0] * 3}, name="changed", expects=())
    for made in (kept, changed):
        rows.run(made, [0, 1, 2], tmp_path)
    changed = claim(name="changed")
    monkeypatch.setattr(runner, "claims", lambda: {"test": kept, "changed": changed})
    sources = {"test": rows.source(kept), "changed": "new"}
    monkeypatch.setattr(rows, "source", lambda claim: sources[claim.name])
    table = tmp_path / "table.md"
    options = ["--only", "test", "--seeds", "3", "--rows", str(tmp_path), "--out", str(table)]
    assert runner.main(options) == 0
    assert "1 claims:" in table.read_text()
    assert "left out" in capsys.readouterr().out


def test_an_unknown_name_is_refused_with_near_ones():
    with pytest.raises(ValueError, match=r"'hbpf' is none. Did you mean .*hbfp.*--list"):
        runner.chosen(["hbpf"])


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_is_complete_and_belongs_to_a_method(name):
    made = CLAIMS[name]
    methods = {entry.home.rpartition(".")[2] for entry in catalogue.entries()}
    assert made.method in methods | {"gbdt"}, "name the method's file"
    assert made.expects
    assert made.published
    assert made.setting.endswith(".")
    assert made.says.endswith(".")


def test_arms_train_alike_and_phases_change_the_recipe():
    setting = settings.digits(steps=12, width=8)
    arms = {
        "plain": None,
        "again": recipes.get("float32"),
        "phases": train.Phases((None, "mxfp4"), (6,)),
    }
    found = train_arms(setting, arms, [0, 1, 2])
    assert found["plain"] == found["again"]
    assert len(set(found["plain"])) == 3
    assert found["phases"] != found["plain"]
    assert all(np.isfinite(found["phases"]))
