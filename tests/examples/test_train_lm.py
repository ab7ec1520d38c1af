"""The main example runs to its table, its CSV and its picture, and refuses what it should."""

import csv
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import pytest

EXAMPLES = pathlib.Path(__file__).parent.parent.parent / "examples"
SMALL = ["--layers", "1", "--width", "32", "--heads", "2", "--length", "32", "--batch", "2",
         "--eval-batches", "3", "--chunk", "5"]  # fmt: skip


@pytest.fixture
def train_lm(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import train_lm

    return train_lm


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for i in range(30):
        (folder / f"{i}.txt").write_text(f"the {i}th file says what the others say. " * 40)
    return folder


def test_the_example_trains_and_writes_everything(train_lm, text, tmp_path, capsys):
    out = tmp_path / "runs"
    options = ["--steps", "10", "--recipe", "mxfp8", "--text", str(text), "--out", str(out)]
    assert train_lm.main([*options, *SMALL, "--diagnostics"]) == 0

    table = capsys.readouterr().out
    shown = re.findall(r"mxfp8 +│ (block_0/\S+) +│ +(\d+\.\d) │ +(\d+\.\d\d)% │", table)
    metrics = [json.loads(line) for line in (out / "mxfp8.jsonl").read_text().splitlines()]
    # Ten steps: the last tenth is the last one.
    last = {k.removeprefix("sqnr/"): v for k, v in metrics[9].items() if k.startswith("sqnr/")}
    assert len(last) == 6 * 8  # Four projections, two products of attention, two layers.
    worst = sorted((v, k) for k, v in last.items() if isinstance(v, float))[:5]
    assert [(name, sqnr) for name, sqnr, _ in shown] == [(k, f"{v:.1f}") for v, k in worst]
    assert "bits per operand" in table
    assert "time ratios include what measuring every cast takes" in table
    assert "8.25" in table
    rows = list(csv.DictReader((out / "results.csv").read_text().splitlines()))
    assert [row["recipe"] for row in rows] == ["float32", "mxfp8"]
    assert (rows[1]["E"], rows[1]["M"], rows[1]["B"]) == ("4", "3", "32")
    assert float(rows[1]["gap"]) == pytest.approx(
        float(rows[1]["loss"]) - float(rows[0]["loss"]), abs=1e-6
    )
    assert {row["D"] for row in rows} == {str(10 * 2 * 32)}
    # One block: four attention projections and a feed-forward layer of twice 4 x width.
    assert {row["N"] for row in rows} == {str(12 * 32 * 32 + 3 * 32)}
    assert (out / "losses.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(p.name for p in out.iterdir()) == [
        "float32.jsonl", "losses.png", "mxfp8.jsonl", "results.csv",
    ]  # fmt: skip


def test_every_contraction_is_listed_and_the_logits_stay_wide(train_lm):
    import lm

    import qjax

    size = lm.Size(layers=1, width=32, heads=2, length=16)
    tokens = jax.ShapeDtypeStruct((2, 16), "int32")
    shown = str(qjax.report(qjax.quantize(lm.LanguageModel(size), "mxfp8"), tokens))
    for part in ("attention/query", "attention/key", "attention/value", "attention/out"):
        assert f"block_0/{part}" in shown
    for part in ("block_0/up", "block_0/down", "lm_head"):
        assert part in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "mxpf8"], "mxfp8"),
        (["--text", "nowhere.txt"], "nowhere.txt, which does not exist"),
    ],
)
def test_bad_input_ends_with_a_sentence_and_no_traceback(arguments, message, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(EXAMPLES.parent), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, EXAMPLES / "train_lm.py", "--out", tmp_path, *arguments],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_help_gives_every_flag_a_unit(train_lm, capsys):
    with pytest.raises(SystemExit):
        train_lm.main(["--help"])
    _, *flags = re.split(r"\n  (?=-)", capsys.readouterr().out.split("options:")[1])
    assert len(flags) > 10
    for flag in flags:
        assert flag.startswith("-h") or re.search(r"\(.*default:", flag, re.DOTALL), flag
