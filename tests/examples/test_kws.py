"""Keyword spotting: the stages keep what they should, and integers are the model to one unit."""

import pathlib

import numpy as np
import pytest

EXAMPLES = pathlib.Path(__file__).parent.parent.parent / "examples"


@pytest.fixture(scope="module")
def kws():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        import kws

        yield kws


@pytest.fixture(scope="module", params=[4, 1])
def trained(kws, request):
    """A small model of 4 bits or of signs: its data, variables of both stages, integer layers."""
    from spotting import integer, sounds, training

    from qjax.recipes import squashed

    rows, targets = sounds.dataset(160, 0)
    data = (training.windows(rows), targets)
    plan = training.Plan(steps=60, batch=32, width=16, seeds=(0, 3))
    model, second, first = training.two_stages(data, plan, request.param)
    every = [training.of_seed(second, n)["params"] for n in range(2)]
    layers = [integer.export(params, squashed.policy(request.param, 8)) for params in every]
    assert np.any(layers[0][0].weights != layers[1][0].weights), "each seed is a run of its own"
    return {"bits": request.param, "data": data, "model": model, "params": every[0],
            "first": training.of_seed(first, 0), "layers": layers[0]}  # fmt: skip


def test_the_second_stage_leaves_the_integers_of_weights_alone(trained):
    first = trained["first"]["params"]
    for n, layer in enumerate(trained["layers"]):
        dense = trained["params"][f"dense_{n}"]
        assert np.array_equal(first[f"dense_{n}"]["kernel"], dense["kernel"])
        assert np.any(first[f"norm_{n}"]["bias"] != trained["params"][f"norm_{n}"]["bias"])
        top = 2 ** max(trained["bits"] - 1, 1) - 1
        assert np.abs(layer.weights).max() == top
        used = len(np.unique(layer.weights))
        assert used > top + 1 if trained["bits"] > 1 else used == 2


def test_signs_are_those_of_the_weights_times_their_mean_magnitude(trained):
    if trained["bits"] > 1:
        pytest.skip("signs are weights of one bit")
    from qjax import gradients

    for n, layer in enumerate(trained["layers"]):
        squashed = np.asarray(gradients.squash(trained["params"][f"dense_{n}"]["kernel"]))
        assert np.array_equal(layer.weights, np.where(squashed < 0, -1, 1))


def test_a_fold_keeps_what_the_first_stage_computes(trained):
    """But for the rounding of inputs to eight bits, and of gains."""
    from spotting import training

    from qjax.recipes import squashed

    plan = training.Plan(width=16)
    early = training.quantized(plan, squashed.policy(trained["bits"]), folded=False)
    late = training.quantized(plan, squashed.policy(trained["bits"], 8), folded=True)
    x = trained["data"][0][:32]
    start = training.folded(trained["first"], early, squashed.policy(4, 8).fwd.lhs, x)
    before, after = early.apply(trained["first"], x), late.apply({"params": start}, x)
    assert np.abs(before - after).max() < 0.1 * np.abs(before).max()
    assert np.abs(before - after).max() > 0


def test_integers_are_the_trained_model_within_one_unit_per_layer(trained):
    from spotting import integer, training

    x = trained["data"][0][:8]
    outputs = training.outputs(trained["model"], {"params": trained["params"]}, x)
    logits, inputs = integer.run(trained["layers"], x)
    for n, layer in enumerate(trained["layers"]):
        assert inputs[n].min() >= -128
        assert inputs[n].max() <= 127
        assert np.abs(layer.gain.astype(int)).max() == 127
        assert layer.bias.dtype == np.int32
        assert layer.sums(inputs[n]).dtype == np.int32
        before = x if n == 0 else np.maximum(outputs[n - 1], 0)
        assert np.abs(inputs[n] - layer.encode(np.asarray(before))).max() <= int(n > 0)
    last = trained["layers"][-1]
    reach = np.abs(last.weights.astype(int)).sum(0) * np.abs(last.gain.astype(int))
    assert np.abs(logits - outputs[-1]).max() < last.step * last.scale * (reach.max() + 1)


def test_no_input_can_leave_int32(trained):
    for layer in trained["layers"]:
        low, high = layer.levels
        worst = np.where(layer.weights > 0, high, low).astype(np.int64)
        sums = np.sum(worst * layer.weights, axis=0) * layer.gain.astype(np.int64) + layer.bias
        assert np.abs(sums).max() <= layer.largest < 2**31


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
    assert integer.memory(layers, 4) == total // 2 + 5 * (16 + 16 + 2)


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


@pytest.mark.parametrize(
    "bad", [["--bits", "0"], ["--recordings", "3"], ["--steps", "0"], ["--width", "0"]]
)
def test_wrong_arguments_are_refused_by_name(kws, bad, capsys):
    with pytest.raises(SystemExit):
        kws.parse(bad)
    assert bad[0] in capsys.readouterr().err
