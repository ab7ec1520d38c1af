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
    options += ["--kinds", "nearest", "one scale, stochastic"]
    options += ["--text", *map(str, tmp_path.glob("*.txt"))]
    assert sweep_formats.main(options) == 0
    first = (out / "formats.csv").read_bytes()
    assert (out / "formats.png").read_bytes()[:4] == b"\x89PNG"
    assert "0 of them diverged" in capsys.readouterr().out
    assert sweep_formats.main(options) == 0
    assert (out / "formats.csv").read_bytes() == first


def committed():
    from qjax import train

    return train.read_table(EXAMPLES / "results" / "formats.csv")


def mean(rows, **wanted):
    chosen = [r["loss"] for r in rows if all(r[name] == value for name, value in wanted.items())]
    assert chosen, wanted
    return np.mean(chosen)


@pytest.mark.parametrize("n", sorted({row["N"] for row in committed()}))
def test_the_committed_table_orders_formats_as_published(n):
    rows = [row for row in committed() if row["N"] == n]
    assert {row["status"] for row in rows} == {"ok"}
    base = mean(rows, recipe="float32")
    losses = {
        (e, m): mean(rows, recipe="nearest", E=e, M=m)
        for e, m in ((1, 1), (2, 1), (3, 0), (2, 2), (2, 3), (4, 3))
    }
    # More bits are better until nothing is lost; of four bits E2M1 beats E3M0.
    assert losses[1, 1] > losses[2, 1] > losses[2, 2] - 0.01
    assert losses[3, 0] > losses[2, 1]
    assert losses[4, 3] == pytest.approx(base, abs=0.03)
    # Logits in four bits cost more than all other layers together.
    assert mean(rows, recipe="head too", E=2, M=1) - base > losses[2, 1] - base


@pytest.mark.parametrize("n", sorted({row["N"] for row in committed()}))
def test_stochastic_gradients_decide_at_four_bits_under_one_scale(n):
    """By a tenth of a nat for integers, and by less for the best float."""
    rows = [row for row in committed() if row["N"] == n]
    four = {"E": 0, "M": 3}
    nearest = mean(rows, recipe="one scale", **four)
    assert nearest - mean(rows, recipe="one scale, stochastic", **four) > 0.1
    best = {"E": 2, "M": 1}
    assert mean(rows, recipe="one scale", **best) > mean(
        rows, recipe="one scale, stochastic", **best
    )
    # A scale for every 32 elements makes up for it.
    assert mean(rows, recipe="nearest", **four) < mean(rows, recipe="one scale", **four) - 0.1
