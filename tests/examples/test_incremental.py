"""Class-incremental learning: what is kept, what is tested, and that exemplars help."""

import csv
import itertools
import pathlib

import numpy as np
import pytest

EXAMPLES = pathlib.Path(__file__).parent.parent.parent / "examples"


@pytest.fixture(scope="module")
def incremental():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        import incremental

        yield incremental


def test_the_curriculum_covers_every_class_once(incremental):
    tasks = incremental.curriculum(np.random.default_rng(0).permutation(10), 4, 4)
    assert [len(task.new) for task in tasks] == [4, 4, 2]
    assert sorted(c for task in tasks for c in task.new) == list(range(10))
    for before, after in itertools.pairwise(tasks):
        assert after.old == before.old + before.new


def test_herding_keeps_the_mean_and_takes_none_twice(incremental):
    images = np.random.default_rng(1).normal(size=(50, 8, 8, 1))
    images[7] = np.delete(images, 7, axis=0).mean(0)  # Nothing is nearer to the mean, ever.
    chosen = incremental.herd(images, 12)
    assert chosen[0] == 7
    assert len(set(chosen.tolist())) == 12
    gaps = [
        np.linalg.norm(images[some].mean(0) - images.mean(0))
        for some in (chosen, *(np.random.default_rng(s).permutation(50)[:12] for s in range(20)))
    ]
    assert gaps[0] < min(gaps[1:])
    assert len(incremental.herd(images[:3], 12)) == 3


def test_old_classes_are_seen_through_their_exemplars_alone(incremental):
    labels = np.repeat(np.arange(4), 30)
    images = np.random.default_rng(2).normal(size=(120, 8, 8, 1))
    rows = incremental.pool(labels, images, incremental.Task((0, 1), (2, 3)), 5)
    old = rows[np.isin(labels[rows], (0, 1))]
    assert len(set(old.tolist())) == 10
    assert len(old) == np.isin(labels[rows], (2, 3)).sum() == 60


def test_the_command_forgets_without_exemplars_and_less_with_them(incremental, tmp_path, capsys):
    out = tmp_path / "table.csv"
    small = ["--recipe", "mxint8", "--seeds", "1", "--steps", "60", "--width", "16"]
    old = {}
    for exemplars in ("1", "20"):
        assert incremental.main([*small, "--exemplars", exemplars, "--out", str(out)]) == 0
        rows = list(csv.DictReader(out.read_text().splitlines()))
        assert [row["classes"] for row in rows] == ["4", "6", "8", "10"]
        assert float(rows[0]["new"]) == float(rows[0]["all"]) > 80
        old[exemplars] = float(rows[-1]["old"])
    assert old["20"] > old["1"] + 5
    assert "wrote" in capsys.readouterr().out


@pytest.mark.parametrize(
    "bad",
    [
        ["--first", "10"],
        ["--exemplars", "0"],
        ["--increment", "0"],
        ["--width", "0"],
        ["--rate", "0"],
    ],
)
def test_wrong_arguments_are_refused_by_name(incremental, bad, capsys):
    with pytest.raises(SystemExit):
        incremental.parse(bad)
    assert bad[0] in capsys.readouterr().err
