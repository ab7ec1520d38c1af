"""The command line: what it prints, what it writes, and how it answers mistakes."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from scaling.cli import main

pytest.importorskip("pandas", reason="reading tables needs the tables extra")

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
    """A folder with a simulated table and a fit of it."""
    folder = tmp_path_factory.mktemp("runs")
    runs, sun = folder / "runs.csv", folder / "sun.csv"
    for law, path in (("chinchilla", runs), ("sun_fp", sun)):
        assert main(["simulate", "--law", law, "--noise", ".003", "-o", str(path)]) == 0
    rows = sun.read_text().splitlines()
    sun.write_text("\n".join([rows[0], *rows[1::5]]) + "\n")
    assert main(["fit", str(sun), "--law", "fp", "-o", str(folder / "fit.json")]) == 0
    return folder


def run(capsys, *words: object) -> tuple[int, str, str]:
    """Runs a command; returns its exit code and what it printed on stdout and stderr."""
    try:
        code = main([str(w) for w in words])
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def test_the_module_and_its_exit_code_work_from_a_shell(place):
    words = [sys.executable, "-m", "scaling", "fit", str(place / "nowhere.csv"), "--law", "fp"]
    out = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert out.returncode == 1
    assert out.stdout == ""
    assert out.stderr.startswith("scaling: There is no file")
    assert out.stderr.count("\n") == 1


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom scaling.cli import build\nbuild().format_help()\n"
        "print([m for m in ('matplotlib', 'pandas', 'scipy.optimize') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert out.stdout.strip() == "[]", out.stderr


def test_laws_are_listed_and_explained(capsys):
    code, out, _ = run(capsys, "laws")
    assert code == 0
    assert "sun_fp" in out
    code, out, _ = run(capsys, "laws", "show", "sun_fp")
    assert code == 0
    for word in ("log2(B)", "D_crit(N, E, M, B)", "sun2025", "arXiv:2501.02423"):
        assert word in out


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("sun2025 --quantity D_crit --N 1e9 --fmt E4M3 --B 128", 27.33e12),
        ("sun2025 --quantity D_crit --N 1e9 --fmt E2M1@128", 0.3928e12),
        ("sun2025 --quantity P_opt --C 1e24 --B 128", 5.005),
        ("sun2025 --quantity loss --N 40894464 --D 1.048576e10 --fmt E1M1@32", 3.5463),
        ("kumar2024 --quantity P_opt", 7.002),
        ("hoffmann2022 --quantity a", 0.45653),
        ("quest2025 --quantity loss --N 1e8 --D 1e10 --fmt FP4", 2.9722),
    ],
)
def test_published_quantities_are_computed(words, answer, capsys):
    code, out, _ = run(capsys, "published", *words.split())
    assert code == 0
    assert float(out) == pytest.approx(answer, rel=2e-4)


def test_published_constants_are_shown_with_source_and_units(capsys):
    assert "sun2025" in run(capsys, "published")[1]
    _, out, _ = run(capsys, "published", "sun2025")
    for word in ("11334.5197", "arXiv:2501.02423", "N without embeddings", "D_crit"):
        assert word in out
    assert (
        run(capsys, "published", "sun2025", "--quantity", "best_layout", "--P", "8")[1] == "4 3\n"
    )


def test_simulation_is_fixed_by_its_seed_and_reads_a_design(place, capsys):
    words = ("simulate", "--law", "chinchilla", "--noise", ".01", "--seed")
    one, two, other = (run(capsys, *words, seed)[1] for seed in (1, 1, 2))
    assert one == two != other
    design = place / "design.csv"
    design.write_text("N,D\n1e9,2e10\n7e9,1.4e11\n")
    _, out, _ = run(
        capsys, "simulate", "--law", "chinchilla", "--constants", "hoffmann2022", "--design", design
    )
    assert len(out.splitlines()) == 3
    assert float(out.splitlines()[2].split(",")[2]) == pytest.approx(2.1669, abs=2e-2)


def test_a_design_may_scale_by_channel_and_leave_rows_out(place, capsys):
    design = place / "blocks.csv"
    design.write_text("N,D,E,M,B\n4e7,1e10,4,3,channel\n4e7,1e10,4,3,tensor\n4e7,1e10,1,1,32\n")
    words = ("simulate", "--law", "sun_fp", "--constants", "sun2025", "--design", design)
    code, _, err = run(capsys, *words)
    assert code == 1
    assert "line 3: B is 'tensor'" in err
    code, out, _ = run(capsys, *words, "--drop-bad")
    assert code == 0
    by_channel, by_block = (float(line.split(",")[-1]) for line in out.splitlines()[1:])
    N = {"--N": 4e7, "--D": 1e10}
    given = [str(word) for pair in N.items() for word in pair]
    for value, fmt in ((by_channel, "E4M3@channel"), (by_block, "E1M1@32")):
        asked = ("published", "sun2025", "--quantity", "loss", *given, "--fmt", fmt)
        assert float(run(capsys, *asked)[1]) == pytest.approx(value, rel=1e-5)


def test_the_published_design_is_simulated_whole(data, capsys):
    path = data("published/sun2025_design.csv")
    code, out, _ = run(capsys, "simulate", "--law", "fp", "--design", path, "--drop-bad")
    assert code == 0
    wanted = [row for row in path.read_text().splitlines() if ",tensor," not in row]
    assert len(out.splitlines()) == len(wanted) == 356


def test_check_describes_the_design_and_fails_where_it_is_hopeless(place, capsys):
    code, out, _ = run(capsys, "check", place / "sun.csv", "--law", "sun_fp")
    assert code == 0
    assert "- N: 4 distinct value(s)" in out
    few = place / "few.csv"
    few.write_text("N,D,loss\n1e8,1e9,3\n2e8,2e9,2.9\n3e8,1e9,2.8\n")
    code, out, _ = run(capsys, "check", few, "--law", "chinchilla")
    assert code == 2
    assert "cannot determine 5 parameters" in out


def test_fit_writes_a_fit_a_report_and_what_was_held_out(place, capsys):
    words = ("fit", place / "sun.csv", "--law", "fp", "--x", "N", "D", "E", "M", "B", "--loss",
             "loss", "--holdout", "N>5e8", "--bootstrap", "10", "--workers", "1", "-o",
             place / "held.json", "--report", place / "report.md")  # fmt: skip
    code, out, _ = run(capsys, *words)
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
    code, _, _ = run(capsys, "plot", place / "held.json", "--kind", "extrapolation", "-o",
                     place / "held.png")  # fmt: skip
    assert code == 0


def test_columns_are_mapped_with_units(place, capsys):
    rows = [line.split(",") for line in (place / "runs.csv").read_text().splitlines()]
    scaled = place / "scaled.csv"
    lines = [f"{float(n) / 1e6!r},{float(d) / 1e9!r},{loss}" for n, d, loss in rows[1:]]
    scaled.write_text("\n".join(["params,tokens,final", *lines]) + "\n")
    code, plain, _ = run(capsys, "fit", place / "runs.csv", "--law", "chinchilla")
    assert code == 0
    table = [line for line in plain.splitlines() if line.startswith("| ")]
    ways = (
        ("--map", "N=params:1e6", "D=tokens:B", "loss=final"),
        ("--x", "params", "tokens", "--loss", "final", "--unit", "N=M", "D=1e9"),
    )
    for way in ways:
        code, out, _ = run(capsys, "fit", scaled, "--law", "chinchilla", *way)
        assert code == 0
        assert [line for line in out.splitlines() if line.startswith("| ")] == table


def test_options_of_a_fit_reach_it(place, capsys):
    _, out, _ = run(capsys, "fit", place / "runs.csv", "--law", "chinchilla", "--fix", "E=1.8",
                    "--tie", "alpha,beta", "--objective", "l2", "--bounds", "A=10:1e5")  # fmt: skip
    assert "| E | 1.8 | held |" in out
    assert "tied to alpha" in out
    assert "objective l2:" in out


def test_a_fit_with_errors_among_its_findings_exits_with_2_but_is_written(place, capsys):
    table = place / "no_floor.csv"
    words = ("--law", "chinchilla", "--params", "E=1e-7", "-o", table)
    assert run(capsys, "simulate", *words)[0] == 0
    code, out, _ = run(capsys, "fit", table, "--law", "chinchilla", "-o", place / "no_floor.json")
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


def test_quests_law_is_fitted_and_compared_from_the_shell(data, place, capsys):
    runs, out = data("quest/runs.csv"), place / "quest.json"
    law = "decoupled_eff:reference=16"
    code, said, _ = run(capsys, "fit", runs, "--law", law, "--objective", "log-l2", "-o", out)
    assert code == 2  # E is not identified, and that is what the code is for
    params = json.loads(out.read_text())["params"]
    assert params["eff_4"] == pytest.approx(0.6918, abs=1e-3)
    assert params["eff_2WO"] == pytest.approx(0.4137, abs=1e-3)
    code, said, _ = run(capsys, "compare", runs, "--laws", f"chinchilla,{law}")
    assert code == 0
    assert said.splitlines()[2].startswith("| decoupled_eff | 21 |")
    code, said, _ = run(capsys, "plan", out, "--compute", "1e20", "--cost", "flops16",
                        "--formats", "2", "4", "16", "--draws", "20")  # fmt: skip
    assert code == 0
    assert "not_identified" in said


def test_compare_ranks_and_writes_its_table(place, capsys):
    code, out, _ = run(capsys, "compare", place / "sun.csv", "--laws", "chinchilla,sun_fp",
                       "--cv", "holdout:N:max", "--out", place / "table.md")  # fmt: skip
    assert code == 0
    assert (place / "table.md").read_text() == out
    laws = [line.split("|")[1].strip() for line in out.splitlines()[2:]]
    assert laws == ["sun_fp", "chinchilla"]


def test_isoflop_prints_its_bias(place, capsys):
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
    code, out, err = run(capsys, "isoflop", table, "--budget", "1e23")
    assert code == 0
    assert "D_opt ~ C^0.4874, N_opt ~ C^0.5126" in out
    assert "C = 1e+23: N = " in out
    assert "Approach 2 is biased" in err


def test_predict_writes_csv_and_warns_outside_of_the_fitted_range(place, capsys):
    points = place / "points.csv"
    points.write_text("N,D,fmt\n1e8,2e10,FP8-E4M3@128\n1e12,2e10,FP8-E4M3@128\n")
    code, out, err = run(capsys, "predict", place / "fit.json", points, "--ci", ".95")
    assert code == 0
    rows = [line.split(",") for line in out.splitlines()]
    assert rows[0] == ["N", "D", "E", "M", "B", "loss", "lower", "upper"]
    _, _, _, _, _, loss, lower, upper = map(float, rows[1])
    assert lower < loss < upper
    assert "N = 1e+12 lies outside" in err
    _, wide, _ = run(capsys, "predict", place / "fit.json", points, "--ci", ".95", "--kind",
                     "new_run")  # fmt: skip
    new = list(map(float, wide.splitlines()[1].split(",")))
    assert new[7] - new[6] > upper - lower
    code, _, err = run(capsys, "predict", "published:sun2025", points)
    assert code == 0
    assert "do not transfer" in err
    code, _, err = run(capsys, "predict", "published:sun2025", points, "--ci", ".9")
    assert code == 1
    assert "have no intervals" in err


def test_plan_prints_and_writes_the_same(place, capsys):
    code, out, _ = run(capsys, "plan", place / "fit.json", "--compute", "1e21", "--draws", "30",
                       "--out", place / "plan.md")  # fmt: skip
    assert code == 0
    assert (place / "plan.md").read_text() == out
    assert "| FP8-E4M3@128 |" in out


def test_plan_takes_limits_serving_and_a_hardware_table(place, capsys):
    hw = place / "hw.csv"
    hw.write_text("format,throughput\nBF16,1\nFP8-E4M3,2\n")
    code, out, _ = run(
        capsys, "plan", "published:sun2025", "--compute", "1e22", "--fixed-n", "7e9", "--cost", hw,
        "--formats", "BF16@128", "FP8-E4M3@128", "--inference-tokens", "1e11",
        "--limits", "D=1e9:1e13",
    )  # fmt: skip
    assert code == 0
    assert "Train 7B parameters" in out
    assert "in FP8-E4M3@128" in out
    assert "hw.csv" in out
    code, _, err = run(capsys, "plan", "published:sun2025", "--compute", "1e22", "--cost", hw)
    assert code == 1
    assert "no throughput for 'FP4-E2M1@128'" in err


@pytest.mark.parametrize("kind", ["iso-loss", "pareto", "precision-vs-compute"])
def test_plot_writes_pictures(kind, place, capsys):
    pytest.importorskip("matplotlib", reason="pictures need the plots extra")
    held = () if kind == "pareto" else ("--set", "B=128")
    budgets = ("--compute", "1e20", "1e22") if kind.startswith("precision") else ()
    path = place / f"{kind}.png"
    code, out, _ = run(
        capsys, "plot", place / "fit.json", "--kind", kind, "-o", path, *held, *budgets
    )
    assert (code, out) == (0, "")
    assert path.read_bytes().startswith(b"\x89PNG")


def table(head: str, rows) -> str:
    """A CSV of numbers."""
    return "\n".join([head, *(",".join(map(str, row)) for row in rows)]) + "\n"


SIZES = (1e8, 2e8, 4e8, 8e8)
TABLES = {
    "empty.csv": "",
    "header.csv": "N,D,loss\n",
    "one_precision.csv": table(
        "N,D,P_w,loss",
        [(n, d, 8, 3 - n / 1e10 - d / 1e12) for n in SIZES for d in (1e9, 3e9, 1e10)],
    ),
    "constant_d.csv": table("N,D,loss", [(n, 1e10, 3 - n / k) for n in SIZES for k in (9e9, 1e10)]),
    "negative.csv": "N,D,loss\n1e8,1e9,3.1\n2e8,1e9,-3\n1e8,2e9,0\n",
    "near.csv": "n_,D,loss\n1e8,1e9,3.1\n",
    "ragged.csv": "N,D,loss\n1e8,1e9,3,4,5\n1e8,1e9\n",
    "nan.csv": "N,D,loss\n1e8,1e9,nan\n",
    "words.csv": "N,D,loss\nbig,1e9,3\n",
}


@pytest.mark.parametrize(
    ("table", "law", "words"),
    [
        ("empty.csv", "chinchilla", "is empty"),
        ("header.csv", "chinchilla", "is empty"),
        ("one_precision.csv", "kumar_qat", "P_w is 8 in every row"),
        ("constant_d.csv", "chinchilla", "D is 1e+10 in every row"),
        ("negative.csv", "chinchilla", "line 3: loss is -3"),
        ("negative.csv", "chinchilla", "line 4: loss is 0"),
        ("near.csv", "chinchilla", "no column 'N'. Near: n_."),
        ("ragged.csv", "chinchilla", "more cells than the header"),
        ("nan.csv", "chinchilla", "line 2: loss is nan"),
        ("words.csv", "chinchilla", "line 2: N is 'big'"),
        ("constant_d.csv", "chinchila", "Near: chinchilla"),
        ("nowhere.csv", "chinchilla", "There is no file"),
    ],
)
def test_bad_tables_are_answered_with_a_sentence(table, law, words, tmp_path, capsys):
    if table in TABLES:
        (tmp_path / table).write_text(TABLES[table])
    code, out, err = run(capsys, "fit", tmp_path / table, "--law", law)
    assert code == 1
    assert out == ""
    assert err.startswith("scaling: ")
    assert words in err
    assert err.strip().count("\n") == 0


def test_millions_are_suspected(place, capsys):
    rows = [line.split(",") for line in (place / "runs.csv").read_text().splitlines()]
    table = place / "millions.csv"
    lines = [f"{float(n) / 1e6!r},{d},{loss}" for n, d, loss in rows[1:]]
    table.write_text("\n".join(["N,D,loss", *lines]) + "\n")
    _, out, _ = run(capsys, "fit", table, "--law", "chinchilla")
    assert "units_suspect" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("fit {runs} --law chinchilla -o {place}/nowhere/fit.json", "there is no folder"),
        ("fit {runs} --law chinchilla -o {place}", "it is a folder"),
        ("fit {runs} --law chinchilla --fix alpha", "--fix takes NAME=VALUE"),
        ("fit {runs} --law chinchilla --fix alpha=x", "--fix alpha needs a number"),
        ("fit {runs} --law chinchilla --fix gamma=1", "no parameter 'gamma'"),
        ("fit {runs} --law chinchilla --x N", "one column for each of N, D"),
        ("fit {runs} --law chinchilla --holdout N>1e99", "holds for 0 of 36 rows"),
        ("fit {runs} --law chinchilla --holdout N>1", "holds for 36 of 36 rows"),
        ("fit {runs} --law chinchilla --only bogus", "condition 'bogus' is not understood"),
        ("fit {runs} --law chinchilla --bootstrap -3", "--bootstrap"),
        ("fit {runs} --law chinchilla --workers 0", "needs a whole number from 1"),
        ("fit {runs} --law chinchilla --fix A=1 B=1 E=1 alpha=1 beta=1", "nothing is left to fit"),
        ("isoflop {runs} --window 0", "--window must be above 1"),
        ("plan {fit} --compute 1e21 --set B=0", "B = 0 is impossible"),
        ("plan {fit} --compute 1e21 --serve-bits 0", "serve_bits must be positive"),
        ("plan {fit} --compute 1e21 --cost {place}/fit.json", "cost table"),
        ("plan published:hoffmann2022 --compute 1e21 --formats FP8 INT4", "cannot tell FP8, INT4"),
        ("plot published:sun2025 --kind residuals -o {place}/a.png", "needs a fit of runs"),
        ("plot published:ouyang2024 --kind pareto -o {place}/a.png", "predicts delta"),
        ("plot {fit} --kind data --at N=-3 -o {place}/a.png", "N must be positive"),
        ("published sun2025 --quantity P_opt --C -1 --B 128", "--C"),
        ("published sun2025 --quantity D_crit --N 0 --fmt E4M3@128", "--N must be positive"),
        ("simulate --law chinchilla --params A=-1", "outside of"),
        ("fit {runs} --law kumar_equal:layers=2", "does not take layers"),
        ("fit {runs} --law kumar_equal:shifts=maybe", "shifts is true or false"),
        ("fit {runs} --law kumar_equal:factors=x", "factors needs a number"),
        ("fit {runs} --law sun_fp", "no column 'E'"),
        ("fit {runs} --law chinchilla --objective l3", "objective must be one of"),
        ("fit {runs}", "--law"),
        ("fi {runs}", "invalid choice"),
        ("compare {runs} --laws chinchilla --cv fold:2", "is not understood"),
        ("laws explain sun_fp", "scaling laws show NAME"),
        ("published sun2024", "there are"),
        ("published sun2025 --quantity D_critical", "not 'D_critical'"),
        ("published sun2025 --quantity D_crit --N 1e9", "give --E, --M, --B"),
        ("published sun2025 --quantity loss --N 1e9", "give --D"),
        ("published sun2025 --quantity D_crit --N big", "--N needs a number"),
        ("published sun2025 --quantity D_crit --N 1e9 --fmt E4", "not understood"),
        ("plan {fit} --compute much", "--compute needs a number"),
        ("plan {fit} --compute 1e21 --limits N=1e9:x", "N needs a number"),
        ("plan {runs} --compute 1e21", "no JSON"),
        ("plan published:nobody --compute 1e21", "No constants"),
        ("predict {fit} {runs}", "no column 'E'"),
        ("plot {fit} --kind circle -o {place}/a.png", "kind must be one of"),
        ("plot {fit} --kind iso-loss -o {place}/a.png", "hold them"),
        ("plot {fit} --kind pareto -o {place}/a.gif", "png"),
        ("simulate --law chinchilla --noise -1", "must not be negative"),
        ("isoflop {fit}", "cannot be read"),
    ],
)
def test_mistakes_are_answered_with_a_sentence_and_exit_code_1(words, said, place, capsys):
    filled = words.format(runs=place / "runs.csv", place=place, fit=place / "fit.json")
    code, out, err = run(capsys, *filled.split())
    assert code == 1
    assert out == ""
    assert said in err
    assert err.strip().count("\n") == 0


def test_the_commands_of_the_readme_run_in_order(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib", reason="pictures need the plots extra")
    lines = [
        line.partition(" #")[0].strip() for line in (ROOT / "README.md").read_text().splitlines()
    ]
    commands = [line for line in lines if line.startswith("scaling ")]
    assert len(commands) >= 7
    monkeypatch.chdir(tmp_path)
    for command in commands:
        words = command.replace("--bootstrap 200", "--bootstrap 5").split()[1:]
        assert run(capsys, *words)[0] == 0, command
