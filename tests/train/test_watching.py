"""A run can be looked at: its picture, TensorBoard, and the noise of its parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import Points, Symbols, TinyLM, regression_step, started

import qjax
from qjax import train
from qjax.quantizer import Quantizer


class Writer:
    """Keeps what a summary writer would write."""

    def __init__(self):
        self.scalars = []

    def add_scalar(self, name, value, step):
        self.scalars.append((name, value, step))


def test_a_run_is_drawn_from_its_metrics_and_sent_to_tensorboard(tmp_path):
    step, points, writer = regression_step(), Points(), Writer()
    file = train.MetricsFile(tmp_path / "run.jsonl")
    result = train.run(
        step,
        started(step),
        points,
        steps=6,
        chunk=3,
        evaluate=train.make_evaluator(step, [points[99]]),
        metrics=train.TensorBoard(writer, also=file),
    )
    losses = [value for name, value, _ in writer.scalars if name == "loss"]
    assert losses == result.history["loss"].tolist()
    assert ("held_out_loss", result.evaluations[0].loss, 6) in writer.scalars
    assert len(train.read_metrics(file.path)) == 7
    train.plot_run(file.path, tmp_path / "run.png", title="tiny")
    assert (tmp_path / "run.png").read_bytes()[:4] == b"\x89PNG"


def test_facts_about_every_cast_reach_the_metrics_file_and_tensorboard(tmp_path):
    """For each of two layers, six operands; the values are those of the run's history."""
    watched = functools.partial(qjax.quantize, diagnostics=True)
    task = train.LinenTask(model=TinyLM(), quantize=watched)
    step = train.Step(task=task, optimizer=optax.sgd(0.1), recipe=qjax.recipes.get("mxfp8"))
    writer, file = Writer(), train.MetricsFile(tmp_path / "run.jsonl")
    symbols = Symbols()
    state = step.init(jax.random.key(0), symbols[0])
    kernel = state.params["up"]["kernel"] + 0  # The run gives the state's own away.
    both = train.TensorBoard(writer, also=file)
    result = train.run(step, state, symbols, steps=4, chunk=2, metrics=both)
    legs = [f"{leg}_{side}" for leg in ("fwd", "dlhs", "drhs") for side in ("lhs", "rhs")]
    kinds = ("sqnr", "saturated", "underflowed")
    names = {f"{kind}/up/{operand}" for kind in kinds for operand in legs}
    rows = train.read_metrics(file.path)
    assert {name for name in rows[0] if "/up/" in name} == names
    for name in names:
        assert [row[name] for row in rows] == result.history[name].tolist()
        sent = [(value, at) for sent, value, at in writer.scalars if sent == name]
        assert sent == list(zip(result.history[name].tolist(), range(1, 5)))
    expected = qjax.diagnostics.sqnr(kernel, qjax.cast(kernel, "mxfp8", axis=0))
    assert rows[0]["sqnr/up/fwd_rhs"] == pytest.approx(float(expected), abs=1e-3)


def test_a_run_without_steps_is_not_drawn(tmp_path):
    with pytest.raises(ValueError, match="which holds no step"):
        train.plot_run(tmp_path / "none.jsonl", tmp_path / "run.png")


def test_the_noise_of_parameters_falls_with_bits():
    params = {"a": {"kernel": jax.random.normal(jax.random.key(0), (64, 32))}, "b": jnp.ones(64)}
    levels = [
        train.parameter_noise(params, Quantizer(name)) for name in ("mxfp4", "mxfp8", "bfloat16")
    ]
    assert [set(level) for level in levels] == [{"a/kernel"}] * 3
    decibels = [level["a/kernel"] for level in levels]
    assert np.all(np.diff(decibels) > 6)
