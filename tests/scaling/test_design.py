"""Judging a design before it is fitted, and refusing what cannot be fitted."""

import numpy as np
import pytest

from scaling import Dataset, fit
from scaling.simulate import grid, simulate

N, D = np.geomspace(5e7, 1.6e10, 5), np.geomspace(1e9, 3e11, 5)

MANY = np.geomspace(1e8, 1e11, 9)


def codes(findings) -> set[str]:
    return {f.code for f in findings}


def test_a_sound_design_has_nothing_to_say():
    assert simulate("chinchilla").check("chinchilla") == []
    assert simulate("sun_fp").check("sun_fp") == []


@pytest.mark.parametrize(
    ("law", "columns", "named"),
    [
        ("chinchilla", grid(N=MANY, D=(1e10,)), "D is 1e"),
        ("chinchilla", grid(N=(1e9,), D=MANY), "N is 1e"),
        ("kumar_equal", grid(N=N, D=D, P=(4,)), "P is 4"),
        ("qid", grid(N=N, D=D, P=(4,)), "P is 4"),
    ],
)
def test_a_predictor_that_never_varies_is_refused(law, columns, named):
    ds = simulate(law, design=columns, noise=0.002)
    with pytest.raises(ValueError, match=named):
        fit(ds, law)
    found = [f for f in ds.check(law) if f.severity == "error"]
    assert [f.code for f in found] == ["too_few_levels"]


def test_a_constant_that_is_only_a_factor_is_accepted():
    design = grid(N=N, D=D, E=(1, 2, 3, 4), M=(1, 2, 3, 5), B=(128,))
    result = fit(simulate("sun_fp", design=design), "sun_fp")
    assert result.params["gamma"] == pytest.approx(11334.5197, rel=1e-5)
    levels = [w for w in result.warnings if w.code == "too_few_levels"]
    assert [w.details["predictor"] for w in levels] == ["B"]


def test_two_levels_are_too_few_for_an_exponent():
    ds = simulate("chinchilla", design=grid(N=N, D=(1e10, 1e11)), noise=0.002)
    found = [f for f in ds.check("chinchilla") if f.code == "too_few_levels"]
    assert found[0].details == {"predictor": "D", "levels": 2, "needed": 3}
    shifted = simulate("kumar_equal", design=grid(N=N, D=D, P=(4, 6, 8)), noise=0.002)
    found = [f for f in shifted.check("kumar_equal") if f.code == "too_few_levels"]
    assert found[0].details == {"predictor": "P", "levels": 3, "needed": 4}


def test_tokens_proportional_to_size_are_collinear():
    ds = simulate("chinchilla", design={"N": N, "D": 20 * N * np.array([1, 1.01, 1, 0.99, 1])})
    assert "collinear_design" in codes(ds.check("chinchilla"))


def test_repeats_are_counted_with_their_lines():
    ds = simulate("chinchilla")
    twice = ds.take([*range(len(ds)), 3, 5])
    found = next(f for f in twice.check("chinchilla") if f.code == "duplicates")
    assert found.details["lines"] == [(4, 4), (6, 6)]


def test_millions_for_units_are_suspected():
    ds = simulate("chinchilla")
    millions = ds.assign(N=ds["N"] / 1e6, D=ds["D"] / 1e6)
    found = [f for f in millions.check("chinchilla") if f.code == "units_suspect"]
    assert {f.details["predictor"] for f in found} == {"N", "D"}
    assert "1e6" in found[0].message
    perplexity = ds.assign(loss=np.exp(ds["loss"] * 1.3))
    assert "units_suspect" in codes(perplexity.check("chinchilla"))


def test_mixed_schedules_and_unfinished_runs_are_said():
    ds = simulate("chinchilla")
    half = np.arange(len(ds)) % 2 == 0
    mixed = ds.assign(schedule=np.where(half, "cosine", "wsd"))
    assert "mixed_schedules" in codes(mixed.check("chinchilla"))
    partly = ds.assign(final=np.where(half, "true", "false"))
    assert "mixed_schedules" in codes(partly.check("chinchilla"))
    assert "mixed_schedules" not in codes(ds.assign(final=["True"] * 36).check("chinchilla"))


def test_negative_degradations_are_an_error():
    ds = Dataset({"N": [1e8, 2e8], "D": [1e9, 2e9], "P": [2, 3],
                  "loss": [3.0, 3.1], "loss_base": [2.9, 3.2]})  # fmt: skip
    found = ds.check("qid")
    assert found[0].code == "negative_delta"
    assert found[0].details["lines"] == [2]


def test_more_parameters_than_rows_are_refused():
    ds = simulate("chinchilla").take(slice(0, 4))
    with pytest.raises(ValueError, match=r"4 row\(s\) cannot determine the 5 free parameters"):
        fit(ds, "chinchilla")
    assert codes(ds.check("chinchilla")) & {"not_identified", "too_few_levels"}
