"""The commands that use a fit: predict, plan, plot."""

import pytest


def test_predict_writes_csv_and_warns_outside_of_the_fitted_range(place, run):
    points = place / "points.csv"
    points.write_text("N,D,fmt\n1e8,2e10,FP8-E4M3@128\n1e12,2e10,FP8-E4M3@128\n")
    code, out, err = run("predict", place / "fit.json", points, "--ci", ".95")
    assert code == 0
    rows = [line.split(",") for line in out.splitlines()]
    assert rows[0] == ["N", "D", "E", "M", "B", "loss", "lower", "upper"]
    _, _, _, _, _, loss, lower, upper = map(float, rows[1])
    assert lower < loss < upper
    assert "N = 1e+12 lies outside" in err
    _, wide, _ = run("predict", place / "fit.json", points, "--ci", ".95", "--kind",
                     "new_run")  # fmt: skip
    new = list(map(float, wide.splitlines()[1].split(",")))
    assert new[7] - new[6] > upper - lower
    code, _, err = run("predict", "published:sun2025", points)
    assert code == 0
    assert "do not transfer" in err
    code, _, err = run("predict", "published:sun2025", points, "--ci", ".9")
    assert code == 1
    assert "have no intervals" in err


def test_plan_prints_and_writes_the_same(place, run):
    code, out, _ = run("plan", place / "fit.json", "--compute", "1e21", "--draws", "30",
                       "--out", place / "plan.md")  # fmt: skip
    assert code == 0
    assert (place / "plan.md").read_text() == out
    assert "| FP8-E4M3@128 |" in out


def test_plan_takes_limits_serving_and_a_hardware_table(place, run):
    hw = place / "hw.csv"
    hw.write_text("format,throughput\nBF16,1\nFP8-E4M3,2\n")
    code, out, _ = run(
        "plan", "published:sun2025", "--compute", "1e22", "--fixed-n", "7e9", "--cost", hw,
        "--formats", "BF16@128", "FP8-E4M3@128", "--inference-tokens", "1e11",
        "--limits", "D=1e9:1e13",
    )  # fmt: skip
    assert code == 0
    assert "Train 7B parameters" in out
    assert "in FP8-E4M3@128" in out
    assert "hw.csv" in out
    code, _, err = run("plan", "published:sun2025", "--compute", "1e22", "--cost", hw)
    assert code == 1
    assert "no throughput for 'FP4-E2M1@128'" in err


@pytest.mark.parametrize("kind", ["iso-loss", "pareto", "precision-vs-compute"])
def test_plot_writes_pictures(kind, place, run):
    pytest.importorskip("matplotlib", reason="pictures need the plots extra")
    held = () if kind == "pareto" else ("--set", "B=128")
    budgets = ("--compute", "1e20", "1e22") if kind.startswith("precision") else ()
    path = place / f"{kind}.png"
    code, out, _ = run("plot", place / "fit.json", "--kind", kind, "-o", path, *held, *budgets)
    assert (code, out) == (0, "")
    assert path.read_bytes().startswith(b"\x89PNG")
