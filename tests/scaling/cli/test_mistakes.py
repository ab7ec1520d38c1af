"""Mistakes are answered with one sentence and an exit code, never with a traceback."""

import pytest


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
    "named.csv": "params,tokens,val_loss\n1e8,1e9,3.1\n",
    "semicolons.csv": "N;D;loss\n1e8;1e9;3.1\n",
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
        ("named.csv", "chinchilla", "--map N=params D=tokens loss=val_loss"),
        ("semicolons.csv", "chinchilla", "separate columns by commas instead of ';'"),
        ("ragged.csv", "chinchilla", "more cells than the header"),
        ("nan.csv", "chinchilla", "line 2: loss is nan"),
        ("words.csv", "chinchilla", "line 2: N is 'big'"),
        ("constant_d.csv", "chinchila", "Near: chinchilla"),
        ("nowhere.csv", "chinchilla", "There is no file"),
    ],
)
def test_bad_tables_are_answered_with_a_sentence(table, law, words, tmp_path, run):
    if table in TABLES:
        (tmp_path / table).write_text(TABLES[table])
    code, out, err = run("fit", tmp_path / table, "--law", law)
    assert code == 1
    assert out == ""
    assert err.startswith("scaling: ")
    assert words in err
    assert err.strip().count("\n") == 0


def test_check_says_a_constant_predictor_once(run, tmp_path):
    (tmp_path / "constant_d.csv").write_text(TABLES["constant_d.csv"])
    code, out, _ = run("check", tmp_path / "constant_d.csv", "--law", "chinchilla")
    assert code == 2
    assert out.count("too_few_levels") == 1


def test_millions_are_suspected(place, run):
    rows = [line.split(",") for line in (place / "runs.csv").read_text().splitlines()]
    table = place / "millions.csv"
    lines = [f"{float(n) / 1e6!r},{d},{loss}" for n, d, loss in rows[1:]]
    table.write_text("\n".join(["N,D,loss", *lines]) + "\n")
    _, out, _ = run("fit", table, "--law", "chinchilla")
    assert "units_suspect" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("fit {runs} --law chinchilla -o {place}/nowhere/fit.json", "there is no folder"),
        ("fit {runs} --law chinchilla -o {place}", "it is a folder"),
        ("fit {runs} --law chinchilla --map N=size", "N is said to be in column 'size'"),
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
        ("fit {runs} --law sun_fp", "no columns 'E', 'M', 'B'"),
        ("fit {runs} --law chinchilla --objective l3", "objective must be one of"),
        ("fit {runs}", "--law"),
        ("fi {runs}", "invalid choice"),
        ("compare {runs} --laws chinchilla --cv fold:2", "is not understood"),
        ("laws explain sun_fp", "scaling laws show NAME"),
        ("published sun2024", "Near: sun2025"),
        ("published sun2025 --quantity D_critical", "not 'D_critical'"),
        ("published sun2025 --quantity D_crit --N 1e9", "give --E, --M, --B"),
        ("published sun2025 --quantity loss --N 1e9", "give --D"),
        ("published sun2025 --quantity D_crit --N big", "--N needs a number"),
        ("published sun2025 --quantity D_crit --N 1e9 --fmt E4", "not understood"),
        ("published sun2025 --N 1e9", "add --quantity"),
        ("plan {fit} --compute 1e21 --fixed-n 7e9 --inference-tokens 1e13", "serve fewer tokens"),
        ("plan {fit} --compute much", "--compute needs a number"),
        ("plan {fit} --compute 1e21 --limits N=1e9:x", "N needs a number"),
        ("plan {runs} --compute 1e21", "no JSON"),
        ("plan published:nobody --compute 1e21", "No constants"),
        ("predict {fit} {runs}", "no columns 'E', 'M', 'B'"),
        ("plot {fit} --kind circle -o {place}/a.png", "kind must be one of"),
        ("plot {fit} --kind iso-loss -o {place}/a.png", "hold them"),
        ("plot {fit} --kind pareto -o {place}/a.gif", "png"),
        ("simulate --law chinchilla --noise -1", "must not be negative"),
        ("isoflop {fit}", "cannot be read"),
    ],
)
def test_mistakes_are_answered_with_a_sentence_and_exit_code_1(words, said, place, run):
    filled = words.format(runs=place / "runs.csv", place=place, fit=place / "fit.json")
    code, out, err = run(*filled.split())
    assert code == 1
    assert out == ""
    assert said in err
    assert err.strip().count("\n") == 0
