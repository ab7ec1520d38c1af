"""The sweep example runs, goes on from its table, and the committed table says what is claimed."""

import pathlib

import numpy as np
import pytest

EXAMPLES = pathlib.Path(__file__).parent.parent.parent / "examples"


@pytest.fixture
def sweep_formats(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import sweep_formats

    return sweep_formats


def test_the_sweep_trains_draws_and_goes_on(sweep_formats, tmp_path, capsys):
    for i in range(20):
        (tmp_path / f"{i}.txt").write_text(f"the {i}th file says what the others say. " * 60)
    out = tmp_path / "out"
    options = ["--few", "--seeds", "1", "--steps", "2", "--widths", "8", "--out", str(out)]
    options += ["--kinds", "nearest", "gradients, stochastic"]
    options += ["--text", *map(str, tmp_path.glob("*.txt"))]
    assert sweep_formats.main(options) == 0
    first = (out / "formats.csv").read_bytes()
    assert (out / "formats.png").read_bytes()[:4] == b"\x89PNG"
    assert "0 of them diverged" in capsys.readouterr().out
    assert sweep_formats.main(options) == 0
    assert (out / "formats.csv").read_bytes() == first


def committed(steps=250):
    from qjax import train

    rows = train.read_table(EXAMPLES / "results" / "formats.csv")
    return [row for row in rows if row["steps"] == steps]


def losses(rows, **wanted):
    """Losses of the rows with these values, in order of seeds."""
    chosen = [r for r in rows if all(r[name] == value for name, value in wanted.items())]
    assert chosen, wanted
    return np.array([row["loss"] for row in sorted(chosen, key=lambda row: row["seed"])])


SIZES = sorted({row["N"] for row in committed()})


@pytest.mark.parametrize("n", SIZES)
def test_the_committed_table_orders_formats_as_published(n):
    rows = [row for row in committed() if row["N"] == n]
    assert {row["status"] for row in rows} == {"ok"}
    assert {row["seed"] for row in rows} == {0, 1, 2}
    base = losses(rows, recipe="float32").mean()
    of = {
        (e, m): losses(rows, recipe="nearest", E=e, M=m).mean()
        for e, m in ((1, 1), (1, 2), (2, 1), (3, 0), (2, 2), (3, 1), (2, 3), (3, 2), (4, 3))
    }
    # More bits are better until nothing is lost.
    assert of[1, 1] > of[2, 1] > of[2, 2]
    assert of[4, 3] == pytest.approx(base, abs=0.03)
    # The best splits by the law of Sun et al. are E2M1, E2M2 and E3M2: none is beaten by more
    # than noise, and of four bits the one without a mantissa is clearly worse.
    assert of[2, 1] < min(of[1, 2], of[3, 0]) + 0.01
    assert of[3, 0] > of[2, 1] + 0.02
    assert of[2, 2] < of[3, 1] + 0.02
    assert of[3, 2] < of[2, 3] + 0.02
    # Logits in four bits cost more than all other layers together.
    assert losses(rows, recipe="head too", E=2, M=1).mean() - of[2, 1] > of[2, 1] - base


@pytest.mark.parametrize("n", SIZES)
def test_stochastic_gradients_decide_below_five_bits(n):
    """Noise takes back more than half of what nearest rounding loses, and helps every seed."""
    rows = [row for row in committed() if row["N"] == n]
    base = losses(rows, recipe="float32")
    for e, m in ((2, 0), (0, 2), (2, 1), (0, 3)):
        nearest = losses(rows, recipe="gradients", E=e, M=m)
        noisy = losses(rows, recipe="gradients, stochastic", E=e, M=m)
        assert (nearest - noisy > 0).all(), (e, m)
        assert (nearest - noisy).mean() > 0.5 * (nearest - base).mean(), (e, m)
    # A scale for every 32 elements makes up for it, even with the other operands quantized.
    all_of_them = losses(rows, recipe="nearest", E=0, M=3)
    assert all_of_them.mean() < losses(rows, recipe="gradients", E=0, M=3).mean()


def test_the_committed_table_has_three_sizes_at_three_lengths():
    for steps in (125, 250, 500):
        rows = [row for row in committed(steps) if row["recipe"] == "nearest"]
        assert sorted({row["N"] for row in rows}) == SIZES
        assert {row["D"] for row in rows} == {256 * steps}
    assert len(SIZES) == 3
