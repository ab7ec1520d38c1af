"""Plans against closed forms, against brute force, and what they say when they cannot know."""

import numpy as np
import pytest

from scaling import Dataset, fit, laws, plan
from scaling.closed import chinchilla, kumar, sun
from scaling.planning import precision_path
from scaling.planning.search import golden
from scaling.simulate import simulate

BUDGETS = (1e19, 1e21, 5.76e23, 1e25)


@pytest.fixture(scope="module")
def chinchilla_fit():
    return fit(simulate("chinchilla", noise=0.003), "chinchilla", bootstrap=60, workers=1)


@pytest.fixture(scope="module")
def sun_fit():
    return fit(simulate("sun_fp", noise=0.003), "sun_fp")


@pytest.mark.parametrize("name", ["hoffmann2022", "besiroglu2024", "chen2025_base"])
@pytest.mark.parametrize("compute", BUDGETS)
def test_chinchilla_plans_are_the_closed_form(name, compute):
    constants = laws.published(name)
    best = plan(constants, compute, cost="flops16").best
    N, D = chinchilla.optimum(constants.params, compute)
    # A minimum is flat: its place is known to the square root of the precision of its value.
    assert pytest.approx(N, rel=1e-5) == best.N
    assert pytest.approx(D, rel=1e-5) == best.D
    assert best.loss <= chinchilla.loss(constants.params, N, D) * (1 + 1e-13)
    assert best.cost == pytest.approx(compute, rel=1e-9)


def test_tokens_per_parameter_are_those_of_the_literature():
    exact = {"A": 477.826, "B": 2143.417, "E": 1.817218, "alpha": 0.3473105, "beta": 0.3671724}
    ratio = [chinchilla.tokens_per_parameter(exact, c) for c in (1e21, 5.76e23, 1e25)]
    assert ratio == pytest.approx([21.4, 17.9, 16.6], abs=0.06)
    best = plan(laws.published("hoffmann2022"), 5.76e23, cost="flops16").best
    assert pytest.approx(59, abs=1.5) == best.D / best.N


@pytest.mark.parametrize("bits", [4, 6, 8, 16])
def test_kumar_plans_are_the_closed_form(bits):
    constants = laws.published("kumar2024")
    best = plan(constants, 1e22, formats=[str(bits)]).best
    N, D = kumar.optimum_at_precision(constants.params, 1e22, bits)
    assert pytest.approx(N, rel=1e-5) == best.N
    assert pytest.approx(D, rel=1e-5) == best.D


def test_kumars_precision_is_seven_bits_at_every_budget():
    path = precision_path(laws.published("kumar2024"), [1e19, 1e22, 1e25])
    np.testing.assert_allclose(path.bits, 7.002, atol=5e-4)
    for compute in (1e19, 1e25):
        assert plan(laws.published("kumar2024"), compute).best.format == "7"


def test_suns_precision_along_budgets_is_the_closed_form():
    budgets = [1e20, 1e21, 1e24, 1e27, 1e30, 1e31, 1e33]
    path = precision_path(laws.published("sun2025"), budgets, held={"B": 128})
    np.testing.assert_allclose(
        path.bits, [3.949, 4.190, 5.005, 5.979, 7.142, 7.578, 8.531], atol=6e-4
    )
    np.testing.assert_allclose(6 / 16 * path.N * path.D * path.bits, budgets, rtol=1e-9)


@pytest.mark.parametrize(("D", "bits"), [(1e11, 4.27), (1e12, 5.18), (1e13, 6.28), (1e14, 7.62)])
def test_suns_precision_for_given_data_is_the_closed_form(D, bits):
    constants = laws.published("sun2025")
    path = precision_path(constants, [1e26], held={"B": 128}, constraints={"D": (D, D)})
    assert path.bits[0] == pytest.approx(bits, abs=6e-3)
    closed = sun.optimal_precision_at_data(constants.params, D, 128)
    assert path.bits[0] == pytest.approx(closed, abs=1e-3)


def test_suns_precision_for_a_given_size_is_the_closed_form():
    constants = laws.published("sun2025")
    path = precision_path(constants, [1e23], held={"B": 128}, constraints={"N": (7e9, 7e9)})
    closed = sun.optimal_precision_at_size(constants.params, 7e9, 1e23, 128)
    assert path.bits[0] == pytest.approx(closed, abs=1e-3)


@pytest.mark.parametrize(
    ("fmt", "E", "M", "trillions"),
    [("E4M3", 4, 3, 27.33), ("E2M1", 2, 1, 0.3928), ("BF16", 8, 7, 1730)],
)
def test_data_beyond_the_critical_amount_is_not_bought(fmt, E, M, trillions):
    constants = laws.published("sun2025")
    limits = {"N": (1e9, 1e9)}
    best = plan(constants, 1e27, formats=[f"{fmt}@128"], constraints=limits).best
    crit = sun.critical_data(constants.params, 1e9, E, M, 128)
    assert crit == pytest.approx(trillions * 1e12, rel=1e-3)
    assert best.D_crit == pytest.approx(crit, rel=1e-5)
    assert pytest.approx(crit, rel=1e-5) == best.D
    assert best.cost < 1e27


def test_serving_moves_the_plan_to_smaller_models_and_spends_the_whole_budget():
    constants, served = laws.published("besiroglu2024"), 1e13
    alone = plan(constants, 1e22, cost="flops16").best
    both = plan(constants, 1e22, cost="flops16", inference_tokens=served).best
    assert both.N < alone.N
    assert 6 * both.N * both.D + 2 * both.N * served == pytest.approx(1e22, rel=1e-9)
    N = np.geomspace(1e7, 5e8, 200_001)
    D = (1e22 / N - 2 * served) / 6
    brute = chinchilla.loss(constants.params, N[D > 1], D[D > 1])
    assert both.loss == pytest.approx(brute.min(), rel=1e-10)
    assert both.loss <= brute.min()


def test_a_table_of_throughputs_is_a_larger_budget_for_the_faster_format():
    constants = laws.published("quest2025")
    speed = {"16": 1.0, "8": 2.0, "4": 4.0}
    found = plan(constants, 1e20, cost=speed, formats=["16", "8", "4"])
    for name, factor in speed.items():
        alone = plan(constants, 1e20 * factor, cost="flops16", formats=[name]).best
        assert found[name].loss == pytest.approx(alone.loss, rel=1e-12)
    assert any("assumed" in note for note in found.notes)


def test_limits_are_respected_and_said():
    constants = laws.published("sun2025")
    found = plan(constants, 1e23, constraints={"memory": (None, 4e9), "D": (None, 1e13)})
    for choice in found.choices:
        assert choice.memory <= 4e9 * (1 + 1e-9)
        assert choice.D <= 1e13
    assert any("memory ends on its upper limit" in note for note in found.notes)


def test_served_bits_decide_memory_and_what_is_quantized_afterwards():
    constants = laws.published("kumar2024")
    served = plan(constants, 1e21, formats=["16"], serve_bits=4).best
    assert served.memory == pytest.approx(served.N * 4 / 8)


def test_probabilities_are_the_share_of_draws_in_which_a_format_wins(sun_fit):
    formats = ["FP4-E2M1@128", "E2M2@128", "FP6-E3M2@128"]
    found = plan(sun_fit, 2e21, formats=formats, draws=40)
    sample = sun_fit.sample(40, 0)
    wins = dict.fromkeys(formats, 0)
    for i in range(40):
        one = {k: float(v[i]) for k, v in sample.items()}
        losses = {}
        for name, (E, M) in zip(formats, ((2, 1), (2, 2), (3, 2))):
            N = np.geomspace(1e9, 1e11, 4001)
            D = 2e21 / (6 / 16 * (E + M + 1) * N)
            losses[name] = sun_fit.law.predict(
                one, {"N": N, "D": D, "E": E, "M": M, "B": 128}
            ).min()
        wins[min(losses, key=losses.get)] += 1
    assert {c.format: round(40 * c.probability) for c in found.choices} == wins
    assert sum(c.probability for c in found.choices) == pytest.approx(1)
    assert sum(n > 0 for n in wins.values()) > 1  # else the test could not see a mistake


def test_formats_that_a_law_cannot_tell_apart_share_their_draws():
    fitted = fit(simulate("kumar_equal", noise=0.003), "kumar_equal")
    together = plan(fitted, 1e21, formats=["E2M2", "E3M1", "INT8"], draws=30)
    alone = plan(fitted, 1e21, formats=["E2M2", "INT8"], draws=30)
    for name in ("E2M2", "E3M1"):
        assert together[name].probability == pytest.approx(alone["E2M2"].probability / 2)
    assert together["INT8"].probability == pytest.approx(alone["INT8"].probability)
    said = any("cannot tell E2M2, E3M1 apart" in note for note in together.notes)
    assert said == (together.best.format != "INT8")
    assert not any("cannot tell" in note for note in alone.notes)


def test_intervals_transform_the_draws(chinchilla_fit):
    best = plan(chinchilla_fit, 1e21, cost="flops16", level=0.9).best
    N, D = chinchilla.optimum(chinchilla_fit.sample(), 1e21)
    assert best.N_interval == pytest.approx(chinchilla_fit.central(N, 0.9), rel=1e-5)
    assert best.D_interval == pytest.approx(chinchilla_fit.central(D, 0.9), rel=1e-5)
    assert best.N_interval[0] < best.N < best.N_interval[1]


def test_extrapolation_is_said_and_staying_inside_is_not(chinchilla_fit):
    inside = plan(chinchilla_fit, 1e20, cost="flops16")
    assert inside.warnings == ()
    far = plan(chinchilla_fit, 1e26, cost="flops16")
    assert {w.details["predictor"] for w in far.warnings} == {"N", "D"}
    assert {w.severity for w in far.warnings} == {"warning"}
    near = plan(chinchilla_fit, 4e22, cost="flops16")
    assert {w.severity for w in near.warnings} == {"info"}


def test_a_format_outside_of_the_fitted_ones_is_said(sun_fit):
    found = plan(sun_fit, 1e20, formats=["E1M6@8"], constraints={"N": (1e8, 2e8)})
    assert {"M", "B"} <= {w.details["predictor"] for w in found.warnings}


def test_published_constants_are_never_passed_off_as_the_users():
    found = plan(laws.published("sun2025"), 1e21)
    assert [w.code for w in found.warnings] == ["extrapolation"]
    assert found.draws == 0
    assert found.best.probability is None


def test_the_same_seed_gives_the_same_plan(sun_fit):
    one, two = (plan(sun_fit, 1e22, draws=30, seed=5).to_markdown() for _ in range(2))
    assert one == two


def test_doubts_of_the_fit_stay_in_the_plan():
    constants = laws.published("chen2025_base")
    N = np.repeat(np.geomspace(1e8, 1e10, 6), 4)
    D = np.tile(np.geomspace(1e9, 1e11, 4), 6)
    loss = constants.predict(N=N, D=D) - constants.params["E"]
    fitted = fit(Dataset({"N": N, "D": D, "loss": loss}), "chinchilla")
    assert "not_identified" in {w.code for w in plan(fitted, 1e20).warnings}


def test_markdown_names_the_choice_the_budget_and_every_format(sun_fit):
    text = plan(sun_fit, 1e21, draws=20, inference_tokens=1e12).to_markdown()
    assert "**Train " in text
    assert "1e+21 FLOP" in text
    assert "serving 1T tokens" in text
    for name in ("FP4-E2M1@128", "BF16@128"):
        assert f"| {name} |" in text


@pytest.mark.parametrize(
    ("constants", "arguments", "words"),
    [
        ("ouyang2024", {}, "predicts delta"),
        ("spectra2024_trilm", {}, "predicts a loss from N and D"),
        ("quest2025", {"formats": ["INT5"]}, "cannot know 'INT5'"),
        ("sun2025", {"formats": ["FP8-E4M3"]}, "FP8-E4M3@128"),
        ("sun2025", {"formats": ["FP9"]}, "not understood"),
        ("sun2025", {"formats": []}, "formats is empty"),
        ("sun2025", {"formats": ["BF16@128", "BF16@128"]}, "repeat"),
        ("sun2025", {"held": {"P": 4}}, "not 'P'"),
        ("sun2025", {"cost": "dollars"}, "cost must be one of"),
        ("sun2025", {"cost": {"BF16": 1.0}}, "no throughput for 'FP4-E2M1@128'"),
        ("sun2025", {"cost": {"BF16": 0.0}}, "throughput of BF16"),
        ("quest2025", {"formats": ["S48"]}, "those of 'S48' are unknown"),
        ("sun2025", {"constraints": {"size": (1, 2)}}, "constraints know"),
        ("sun2025", {"constraints": {"N": (2, 1)}}, "lower first"),
        ("sun2025", {"constraints": {"N": (1e22, None)}}, "No format has a size"),
        ("sun2025", {"level": 95}, "between 0 and 1"),
        ("sun2025", {"inference_tokens": -1}, "must not be negative"),
    ],
)
def test_what_cannot_be_planned_is_said(constants, arguments, words):
    with pytest.raises(ValueError, match=words):
        plan(laws.published(constants), 1e21, **arguments)


def test_a_budget_must_be_positive():
    with pytest.raises(ValueError, match="positive number of FLOP"):
        plan(laws.published("sun2025"), -1e21)


def test_precision_needs_a_law_that_has_one():
    with pytest.raises(ValueError, match="no precision to choose"):
        precision_path(laws.published("hoffmann2022"), [1e21])
    with pytest.raises(ValueError, match="hold them"):
        precision_path(laws.published("sun2025"), [1e21])
    with pytest.raises(ValueError, match="no precision between"):
        precision_path(laws.published("kumar2024"), [1e21], cost={"BF16": 1.0})


def test_the_search_finds_minima_inside_and_on_both_ends():
    centers = np.array([[0.3], [-2.0], [5.0]])
    low, high = np.full((3, 1), -1.0), np.full((3, 1), 1.0)
    x, y = golden(lambda v: (v - centers) ** 2, low, high, grid=11)
    np.testing.assert_allclose(x[:, 0], [0.3, -1.0, 1.0], atol=1e-7)
    np.testing.assert_allclose(y[:, 0], [0.0, 1.0, 16.0], atol=1e-12)
