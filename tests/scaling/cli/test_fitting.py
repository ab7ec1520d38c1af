"""The commands that look at runs: check, fit, compare, isoflop."""

import json

import numpy as np
import pytest


def test_check_describes_the_design_and_fails_where_it_is_hopeless(place, run):
    code, out, _ = run("check", place / "sun.csv", "--law", "sun_fp")
    assert code == 0
    assert "- N: 4 distinct value(s)" in out
    few = place / "few.csv"
    few.write_text("N,D,loss\n1e8,1e9,3\n2e8,2e9,2.9\n3e8,1e9,2.8\n")
    code, out, _ = run("check", few, "--law", "chinchilla")
    assert code == 2
    assert "cannot determine 5 parameters" in out


def test_fit_writes_a_fit_a_report_and_what_was_held_out(place, run):
    words = ("fit", place / "sun.csv", "--law", "fp", "--x", "N", "D", "E", "M", "B", "--loss",
             "loss", "--holdout", "N>5e8", "--bootstrap", "10", "--workers", "1", "-o",
             place / "held.json", "--report", place / "report.md")  # fmt: skip
    code, out, _ = run(*words)
    assert code == 0
    assert (place / "report.md").read_text() == out
    content = json.loads((place / "held.json").read_text())
    assert content["held_out"]["condition"] == "N>5e8"
    assert min(content["held_out"]["columns"]["N"]) > 5e8
    assert max(content["data"]["columns"]["N"]) < 5e8
    assert content["held_out"]["rms_log"] < 0.01
    assert content["draws"]["count"] == 10
    for word in ("## Doubts", "95% (bootstrap)", "held out (N>5e8)", content["data"]["sha256"]):
        assert word in out
    code, _, _ = run("plot", place / "held.json", "--kind", "extrapolation", "-o",
                     place / "held.png")  # fmt: skip
    assert code == 0


def test_columns_are_mapped_with_units(place, run):
    rows = [line.split(",") for line in (place / "runs.csv").read_text().splitlines()]
    scaled = place / "scaled.csv"
    lines = [f"{float(n) / 1e6!r},{float(d) / 1e9!r},{loss}" for n, d, loss in rows[1:]]
    scaled.write_text("\n".join(["params,tokens,final", *lines]) + "\n")
    code, plain, _ = run("fit", place / "runs.csv", "--law", "chinchilla")
    assert code == 0
    table = [line for line in plain.splitlines() if line.startswith("| ")]
    ways = (
        ("--map", "N=params:1e6", "D=tokens:B", "loss=final"),
        ("--x", "params", "tokens", "--loss", "final", "--unit", "N=M", "D=1e9"),
    )
    for way in ways:
        code, out, _ = run("fit", scaled, "--law", "chinchilla", *way)
        assert code == 0
        assert [line for line in out.splitlines() if line.startswith("| ")] == table


def test_options_of_a_fit_reach_it(place, run):
    _, out, _ = run("fit", place / "runs.csv", "--law", "chinchilla", "--fix", "E=1.8",
                    "--tie", "alpha,beta", "--objective", "l2", "--bounds", "A=10:1e5")  # fmt: skip
    assert "| E | 1.8 | held |" in out
    assert "tied to alpha" in out
    assert "objective l2:" in out


def test_a_fit_with_errors_among_its_findings_exits_with_2_but_is_written(place, run):
    table = place / "no_floor.csv"
    words = ("--law", "chinchilla", "--params", "E=1e-7", "-o", table)
    assert run("simulate", *words)[0] == 0
    code, out, _ = run("fit", table, "--law", "chinchilla", "-o", place / "no_floor.json")
    assert "not_identified" in out
    assert code == 2
    assert (place / "no_floor.json").exists()


def test_a_fit_that_did_not_converge_exits_with_3():
    from types import SimpleNamespace

    from scaling.cli.fitting import exit_code
    from scaling.findings import Finding

    doubt = Finding(code="not_identified", severity="error", message="E.")
    assert exit_code(SimpleNamespace(converged=False, warnings=(doubt,))) == 3
    assert exit_code(SimpleNamespace(converged=True, warnings=(doubt,))) == 2
    assert exit_code(SimpleNamespace(converged=True, warnings=())) == 0


def test_quests_law_is_fitted_and_compared_from_the_shell(data, place, run):
    runs, out = data("quest/runs.csv"), place / "quest.json"
    law = "decoupled_eff:reference=16"
    code, said, _ = run("fit", runs, "--law", law, "--objective", "log-l2", "-o", out)
    assert code == 2  # E is not identified, and that is what the code is for
    params = json.loads(out.read_text())["params"]
    assert params["eff_4"] == pytest.approx(0.6918, abs=1e-3)
    assert params["eff_2WO"] == pytest.approx(0.4137, abs=1e-3)
    code, said, _ = run("compare", runs, "--laws", f"chinchilla,{law}")
    assert code == 0
    assert said.splitlines()[2].startswith("| decoupled_eff | 21 |")
    code, said, _ = run("plan", out, "--compute", "1e20", "--cost", "flops16",
                        "--formats", "2", "4", "16", "--draws", "20")  # fmt: skip
    assert code == 0
    assert "not_identified" in said


def test_compare_ranks_and_writes_its_table(place, run):
    code, out, _ = run("compare", place / "sun.csv", "--laws", "chinchilla,sun_fp",
                       "--cv", "holdout:N:max", "--out", place / "table.md")  # fmt: skip
    assert code == 0
    assert (place / "table.md").read_text() == out
    laws = [line.split("|")[1].strip() for line in out.splitlines()[2:]]
    assert laws == ["sun_fp", "chinchilla"]


def test_isoflop_prints_its_bias(place, run):
    from scaling.closed import chinchilla

    params = {"A": 482.01, "B": 2085.43, "E": 1.8172, "alpha": 0.3478, "beta": 0.3658}
    table = place / "iso.csv"
    lines = ["N,D,loss"]
    for c in (1e20, 1e21, 1e22):
        for n in chinchilla.optimal_size(params, c) * np.geomspace(0.25, 4, 9):
            d = c / (6 * n)
            loss = chinchilla.loss(params, n, d)
            lines.append(f"{n:.17g},{d:.17g},{loss:.17g}")
    table.write_text("\n".join(lines) + "\n")
    code, out, err = run("isoflop", table, "--budget", "1e23")
    assert code == 0
    assert "D_opt ~ C^0.4874, N_opt ~ C^0.5126" in out
    assert "C = 1e+23: N = " in out
    assert "Approach 2 is biased" in err
