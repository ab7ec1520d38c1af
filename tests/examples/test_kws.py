"""Keyword spotting: the stages keep what they should, and integers are the model to one unit."""

import pathlib

import numpy as np
import pytest

EXAMPLES = pathlib.Path(__file__).parent.parent.parent / "examples"
BITS = 4


@pytest.fixture(scope="module")
def kws():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        import kws

        yield kws


@pytest.fixture(scope="module")
def trained(kws):
    """A small model: its data, parameters of both stages, layers of integers."""
    from spotting import integer, sounds, training

    from qjax.recipes import squashed

    rows, targets = sounds.dataset(160, 0)
    data = (training.windows(rows), targets)
    plan = training.Plan(steps=60, batch=32, width=16)
    model, second, first = training.two_stages(data, plan, BITS)
    layers = integer.export(second, squashed.policy(BITS, 8))
    return {"rows": rows, "data": data, "model": model, "params": second, "first": first,
            "layers": layers}  # fmt: skip


def test_the_second_stage_leaves_the_integers_of_weights_alone(trained):
    for name, held in trained["first"].items():
        assert np.array_equal(held["kernel"], trained["params"][name]["kernel"])
        assert np.any(held["bias"] != trained["params"][name]["bias"])
    for layer in trained["layers"]:
        assert np.abs(layer.weights).max() <= 2 ** (BITS - 1) - 1
        assert len(np.unique(layer.weights)) > 2 ** (BITS - 1)


def test_integers_are_the_trained_model_within_one_unit_per_layer(trained):
    from spotting import integer, training

    x = trained["data"][0][:8]
    outputs = training.outputs(trained["model"], trained["params"], x)
    logits, inputs = integer.run(trained["layers"], x)
    for n, layer in enumerate(trained["layers"]):
        assert inputs[n].min() >= -128
        assert inputs[n].max() <= 127
        before = x if n == 0 else np.maximum(outputs[n - 1], 0)
        assert np.abs(inputs[n] - layer.encode(np.asarray(before))).max() <= int(n > 0)
    last = trained["layers"][-1]
    one_unit = last.step * last.scale * (np.abs(last.weights.astype(int)).sum(0).max() + 1)
    assert np.abs(logits - outputs[-1]).max() < one_unit


def test_a_stream_gives_what_the_whole_recording_gives(trained):
    from spotting import integer, sounds, training

    draw = np.random.default_rng(5)
    sound = sounds.recording(draw, 0)
    rows = sounds.energies(sound)
    for n in range(len(rows)):
        alone = sounds.energies(sound[n * sounds.FRAME : (n + 1) * sounds.FRAME])
        assert np.array_equal(alone[0], rows[n])
    whole, _ = integer.run(trained["layers"], training.windows(rows))
    stream = integer.Stream(trained["layers"], sounds.BANDS)
    given = [stream(row) for row in rows]
    assert all(out is None for out in given[: training.CONTEXT - 1])
    assert np.array_equal(np.stack(given[training.CONTEXT - 1 :]), whole)


def test_operations_and_bytes_are_counted(trained):
    from spotting import integer, sounds, training

    layers, into = trained["layers"], training.CONTEXT * sounds.BANDS
    assert layers[0].operations == into * 16 + 16
    total = into * 16 + 16 * 16 + 16 * 2
    assert integer.memory(layers, 4) == total // 2 + 4 * (16 + 16 + 2)


def test_false_detections_are_those_above_the_threshold_of_the_keywords(kws):
    scores = np.array([5.0, 4.0, 3.0, 3.5, 1.0, 0.0])
    targets = np.array([1, 1, 1, 0, 0, 0])
    assert kws.false_detections(scores, targets, 0.0) == pytest.approx(1 / 3)
    assert kws.false_detections(scores, targets, 0.6) == 0


def test_the_command_prints_its_table(kws, capsys):
    small = ["--recordings", "64", "--steps", "4", "--width", "8", "--bits", "4"]
    assert kws.main(small) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["model", "float32", "4-bit"]


@pytest.mark.parametrize("bad", [["--bits", "1"], ["--recordings", "3"], ["--steps", "0"]])
def test_wrong_arguments_are_refused_by_name(kws, bad, capsys):
    with pytest.raises(SystemExit):
        kws.parse(bad)
    assert bad[0] in capsys.readouterr().err
