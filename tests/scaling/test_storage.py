"""Saved fits: what comes back is what was saved, and a file that was changed is refused."""

import json

import numpy as np
import pytest

from scaling import Dataset, files, fit, laws, load, save
from scaling.laws import Law, coefficient, exponent
from scaling.simulate import default_design, simulate, typical


def small(name: str, rows: int = 60, noise: float = 0.003) -> Dataset:
    """A few rows of a law's own design."""
    table = simulate(name, noise=noise, seed=3)
    return table.take(np.random.default_rng(0).permutation(len(table))[:rows])


@pytest.mark.parametrize(
    ("law", "options"),
    [
        ("chinchilla", {"bootstrap": 20, "workers": 1}),
        ("chinchilla", {"tie": ("alpha", "beta"), "objective": "log-l2"}),
        ("kumar_qat", {"fixed": {"n_w": 0.3}, "bounds": {"gamma_w": (0.5, None)}}),
        ("decoupled_eff", {}),
        ("kumar_equal", {"weights": np.linspace(1, 2, 60), "delta": 1e-2}),
        ("chinchilla", {"center": False}),
    ],
    ids=["bootstrap", "tied", "bounded", "labels", "weights", "not centered"],
)
def test_a_loaded_fit_is_the_saved_one(law, options, tmp_path):
    saved = fit(small(law), law, **options)
    loaded = load(save(saved, tmp_path / "fit.json"))
    assert loaded.params == saved.params
    assert loaded.objective == saved.objective
    assert loaded.free == saved.free
    assert loaded.starts == saved.starts
    assert [str(w) for w in loaded.warnings] == [str(w) for w in saved.warnings]
    assert loaded.problem.ds.hash == saved.problem.ds.hash
    assert loaded.ci(0.9) == saved.ci(0.9)
    points = saved.problem.ds
    for ours, theirs in zip(loaded.predict(points, ci=0.9), saved.predict(points, ci=0.9)):
        np.testing.assert_array_equal(ours, theirs)
    assert (loaded.draws is None) == (saved.draws is None)


def test_the_file_is_strict_json_that_names_data_units_and_versions(tmp_path):
    saved = fit(small("chinchilla"), "chinchilla")
    text = save(saved, tmp_path / "fit.json", note="mine").read_text()

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    content = json.loads(text, parse_constant=refuse)
    assert content["schema"] == 2
    assert content["params"] == saved.params
    assert content["units"] == {"N": "parameters", "D": "tokens", "loss": "nats per token"}
    assert content["data"]["sha256"] == saved.problem.ds.hash
    assert set(content["versions"]) == {"python", "qjax", "numpy", "scipy"}
    assert content["note"] == "mine"
    with pytest.raises(ValueError, match="part of the schema"):
        save(saved, tmp_path / "fit.json", params={})


def change(path, edit) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda c: c["params"].update(E=1.0), "do not belong together"),
        (lambda c: c["data"]["columns"]["loss"].__setitem__(0, 9.0), "do not belong together"),
        (lambda c: c["coordinates"]["u"].pop(), "another number of parameters"),
        (lambda c: c.update(schema=99), "schema 99"),
        (lambda c: c.pop("starts"), "incomplete"),
        (lambda c: c["law"].update(name="chinchila"), "Near: chinchilla"),
        (lambda c: c["draws"].update(sha256="0"), "does not belong"),
    ],
)
def test_a_changed_file_is_refused(edit, words, tmp_path):
    path = save(fit(small("chinchilla"), "chinchilla", bootstrap=3), tmp_path / "fit.json")
    change(path, edit)
    with pytest.raises(ValueError, match=words):
        load(path)


def test_missing_draws_a_missing_file_and_no_json_are_said(tmp_path):
    path = save(fit(small("chinchilla"), "chinchilla", bootstrap=3), tmp_path / "fit.json")
    (tmp_path / "fit.draws.npz").unlink()
    with pytest.raises(ValueError, match="not beside it"):
        load(path)
    with pytest.raises(ValueError, match="There is no file"):
        load(tmp_path / "other.json")
    path.write_text("loss: 3")
    with pytest.raises(ValueError, match="no JSON"):
        load(path)
    path.write_text("[1]")
    with pytest.raises(ValueError, match="not a saved fit"):
        load(path)


def test_a_law_of_the_users_own_is_passed_when_loading(tmp_path):
    mine = Law(
        name="mine",
        predictors=("N",),
        params=(coefficient("A"), exponent("alpha"), coefficient("E")),
        terms=lambda p, x, xp: {"A": -p["alpha"] * xp.log(x["N"]), "E": 0.0},
    )
    N = np.geomspace(1e7, 1e10, 12)
    table = Dataset({"N": N, "loss": mine.predict({"A": 50.0, "alpha": 0.2, "E": 1.7}, {"N": N})})
    path = save(fit(table, mine), tmp_path / "fit.json")
    with pytest.raises(ValueError, match="pass it as law="):
        load(path)
    assert load(path, law=mine).params["E"] == pytest.approx(1.7, rel=1e-6)


def test_files_are_written_whole_or_not_at_all(tmp_path):
    path = files.write_text(tmp_path / "a.txt", "old")

    def fail(file):
        file.write(b"half of the new")
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        files.write(path, fail)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("place", [".", "nowhere/a.txt"])
def test_what_cannot_be_written_is_said_in_a_sentence(place, tmp_path):
    with pytest.raises(ValueError, match="Cannot write"):
        files.write_text(tmp_path / place, "text")


def test_every_law_of_the_registry_survives_saving(tmp_path):
    for name in laws.names():
        design = default_design(name)
        law = laws.get(name)
        bound = law.bind(law, design) if law.bind else law
        table = simulate(name, typical(name))
        # One polish from the truth: this test is about the file, not about the search.
        start = typical(name)
        saved = fit(table, law, method="start", start=start)
        loaded = load(save(saved, tmp_path / f"{name}.json"))
        assert loaded.law.names == bound.names
        assert loaded.params == saved.params
