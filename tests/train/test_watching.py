"""A run can be looked at: its picture, TensorBoard, and the noise of its parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import Points, regression_step, started

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
