"""The example from a results table to a plan, on its simulated table and on tables of training."""

import pathlib

import numpy as np
import pytest

from scaling import load, simulate

pytest.importorskip("matplotlib", reason="pictures need the plots extra")
pytest.importorskip("pandas", reason="reading tables needs the tables extra")

EXAMPLES = pathlib.Path(__file__).parent.parent.parent / "examples"


@pytest.fixture
def precision_law(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import precision_law

    return precision_law


def test_the_simulated_table_leads_to_its_own_law_and_a_plan(precision_law, tmp_path, capsys):
    assert precision_law.main(["--bootstrap", "10", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "**Train " in out
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".md", ".npz", ".png"}
    fitted = load(tmp_path / "fit.json")
    assert fitted.law.name == "sun_fp"
    assert len(fitted.draws) == 10
    assert (tmp_path / "plan.md").read_text().strip() in out
    assert (tmp_path / "comparison.md").read_text().strip() in out


def test_a_table_as_sweeps_write_it_is_read(precision_law, tmp_path, capsys):
    """Empty losses of diverged runs, empty blocks of unscaled formats, columns of no concern."""
    rows = []
    constants = simulate.typical("sun_fp")
    law = simulate.get("sun_fp")
    noise = np.random.default_rng(0)
    for N in (4e7, 8e7, 1.6e8, 3.2e8):
        for D in (1e10, 2e10, 4e10):
            for name, E, M, B in (("mxfp8", 4, 3, 32), ("mxfp4", 2, 1, 32), ("float32", 8, 23, "")):
                point = {"N": N, "D": D, "E": E, "M": M, "B": B or 9000}
                loss = float(law.predict(constants, point)) * np.exp(0.001 * noise.normal())
                rows.append(f"{name},{name},{E},{M},{B},8.25/32,0,ok,{loss},True,{N:g},{D:g}")
    rows.append("mxfp4,mxfp4,2,1,32,4.25,1,diverged at step 3,,False,1e8,1e10")
    rows = [row.replace("mxfp8,", "nearest,", 1).replace("mxfp4,", "nearest,", 1) for row in rows]
    rows.append("stochastic,mxfp4,2,1,32,4.25,1,ok,1000.0,True,1e8,1e10")
    head = "recipe,format,E,M,B,bits,seed,status,loss,final,N,D"
    path = tmp_path / "results.csv"
    path.write_text("\n".join([head, *rows]) + "\n")
    out = tmp_path / "out"
    options = ["--recipe", "nearest", "--bootstrap", "0", "--budget", "1e21", "--out", str(out)]
    assert precision_law.main([str(path), *options]) == 0
    said = capsys.readouterr().out
    assert "36 runs of " in said
    assert "left out line 38: loss is nan" in said
    assert "E2M1@32" in said
    assert "E8M23@channel" in said
    assert "Budget 1e+21 FLOP" in said
    assert "decoupled_eff" in (out / "comparison.md").read_text()


def test_few_sizes_are_judged_by_their_largest_and_longest_runs(precision_law, tmp_path, capsys):
    """Three sizes, three lengths and formats of many widths, as small sweeps have them."""
    law, constants = simulate.get("sun_fp"), simulate.typical("sun_fp")
    layouts = ((1, 1), (2, 1), (3, 0), (2, 2), (2, 3), (3, 3), (4, 3), (4, 4), (5, 4), (5, 10))
    lines, noise = [], np.random.default_rng(0)
    for N in (4e7, 1.6e8, 6.4e8):
        for D in (1e10, 4e10, 1.6e11):
            for E, M in layouts:
                point = {"N": N, "D": D, "E": E, "M": M, "B": 32}
                for _ in range(2):
                    loss = float(law.predict(constants, point)) * np.exp(0.002 * noise.normal())
                    lines.append(f"{N:g},{D:g},{E},{M},32,{loss}")
    path = tmp_path / "results.csv"
    path.write_text("\n".join(["N,D,E,M,B,loss", *lines]) + "\n")
    out = tmp_path / "out"
    assert precision_law.main([str(path), "--bootstrap", "8", "--out", str(out)]) == 0
    assert "holdout:C:max" in (out / "comparison.md").read_text()
    fitted = load(out / "fit.json")
    assert fitted.law.name == "sun_fp"
    assert fitted.draws.units == 90  # configurations, not rows
    table = precision_law.completed(fitted.problem.ds)
    shown = precision_law.best_of_width(table)
    assert len(shown) == 8
    assert shown[:3] == ["E1M1@32", "E2M1@32", "E2M2@32"]  # of four bits E2M1 rather than E3M0
    assert shown[-1] == "E5M10@32"


def test_too_few_runs_are_answered_with_a_sentence(precision_law, tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("N,D,E,M,B,loss\n1e6,1e7,4,3,32,2.0\n2e6,1e7,4,3,32,1.9\n")
    with pytest.raises(ValueError, match="no law could be fitted"):
        precision_law.main([str(path), "--out", str(tmp_path / "out")])
