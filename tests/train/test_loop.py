"""The loop takes exactly the steps it should, writes them down, and stops cleanly."""

import os
import signal

import jax
import numpy as np
import optax
import pytest
from tiny import Points, Symbols, TinyLM, regression_step, same, started

from qjax import train


def by_hand(step, batches, steps, seed=0):
    state = started(step, batches, seed)
    program, losses = jax.jit(step), []
    for t in range(steps):
        state, metrics = program(state, batches[t])
        losses.append(float(metrics["loss"]))
    return state, losses


def test_a_run_is_the_step_repeated():
    step, points = regression_step(), Points()
    state, losses = by_hand(step, points, 23)
    result = train.run(step, started(step), points, steps=23, chunk=10)
    assert int(result.state.step) == 23
    np.testing.assert_allclose(result.history["loss"], losses, rtol=1e-5)
    np.testing.assert_allclose(result.state.params["w"], state.params["w"], rtol=1e-5)


def test_the_chunk_changes_nothing_but_when_the_host_looks():
    step, points = regression_step(), Points()
    one = train.run(step, started(step), points, steps=12, chunk=12)
    two = train.run(step, started(step), points, steps=12, chunk=5)
    assert same(one.state, two.state)
    assert np.array_equal(one.history["loss"], two.history["loss"])


def test_a_run_in_two_parts_is_the_whole_run():
    step, points = regression_step(), Points()
    whole = train.run(step, started(step), points, steps=12, chunk=4)
    part = train.run(step, started(step), points, steps=7, chunk=4)
    rest = train.run(step, part.state, points, steps=12, chunk=4)
    assert same(whole.state, rest.state)


def test_the_loss_falls():
    step, points = regression_step(), Points()
    losses = train.run(step, started(step), points, steps=300, chunk=50).history["loss"]
    assert losses[-10:].mean() < 0.1 * losses[:10].mean()


def test_metrics_and_evaluations_are_written_a_line_each(tmp_path):
    step, points = regression_step(), Points()
    evaluate = train.make_evaluator(step, [points[1000], points[1001]])
    result = train.run(
        step,
        started(step),
        points,
        steps=9,
        chunk=4,
        evaluate=evaluate,
        evaluate_every=6,
        metrics=train.MetricsFile(tmp_path / "new" / "run.jsonl"),
    )
    rows = train.read_metrics(tmp_path / "new" / "run.jsonl")
    assert [r["step"] for r in rows if "loss" in r] == list(range(1, 10))
    assert [r["step"] for r in rows if "held_out_loss" in r] == [6, 9]
    assert [e.step for e in result.evaluations] == [6, 9]
    assert [r["loss"] for r in rows if "loss" in r] == result.history["loss"].tolist()


def test_a_resumed_metrics_file_drops_what_comes_after(tmp_path):
    path = tmp_path / "run.jsonl"
    file = train.MetricsFile(path)
    file.write([{"step": 1, "loss": 2.0}, {"step": 2, "loss": float("inf")}, {"step": 3}])
    path.write_text(path.read_text() + '{"step": 4, "lo')
    resumed = train.MetricsFile(path, resume_at=2)
    resumed.write([{"step": 3, "loss": 1.0}])
    assert [r["step"] for r in train.read_metrics(path)] == [1, 2, 3]
    assert train.read_metrics(path)[1]["loss"] == "inf"


def test_a_nan_stops_the_run_and_names_the_step(tmp_path):
    step, points = regression_step(), Points(spoiled=12)
    file = train.MetricsFile(tmp_path / "run.jsonl")
    with pytest.raises(train.Diverged, match="The loss at step 13 is nan") as caught:
        train.run(step, started(step), points, steps=30, chunk=5, metrics=file)
    assert caught.value.step == 13
    assert len(caught.value.result.history["loss"]) == 10
    assert train.read_metrics(file.path)[-1]["step"] == 10


class Interrupting(Points):
    """Sends this process a signal when the batch of `step` is asked for."""

    def __init__(self, step, number):
        super().__init__()
        self.step, self.number = step, number

    def __getitem__(self, step):
        if step == self.step:
            os.kill(os.getpid(), self.number)
        return super().__getitem__(step)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_after_its_chunk_with_its_own_code(number, code):
    before = signal.getsignal(number)
    step = regression_step()
    with pytest.raises(train.Interrupted) as caught:
        train.run(step, started(step), Interrupting(7, number), steps=30, chunk=5)
    assert caught.value.code == code
    assert int(caught.value.result.state.step) == 10
    assert len(caught.value.result.history["loss"]) == 10
    assert signal.getsignal(number) is before


def test_a_linen_model_learns_and_is_evaluated_without_dropout():
    step = train.Step(
        task=train.LinenTask(model=TinyLM(), train_kwargs={"deterministic": False}),
        optimizer=optax.adam(3e-2),
    )
    symbols = Symbols()
    state = step.init(jax.random.key(0), symbols[0])
    evaluate = train.make_evaluator(step, [symbols[10_000], symbols[10_001]])
    first = evaluate(state)
    assert np.array_equal(first.losses, evaluate(state).losses)
    result = train.run(step, state, symbols, steps=60, chunk=20, evaluate=evaluate)
    assert first.loss == pytest.approx(np.log(32), rel=0.1)
    assert result.evaluations[-1].loss < 0.5 * first.loss


def test_one_program_serves_whole_and_cut_chunks():
    traces = []
    plain = regression_step()

    class Counted(train.Step):
        def __call__(self, state, batch):
            traces.append(1)
            return super().__call__(state, batch)

    step = Counted(task=plain.task, optimizer=plain.optimizer)
    train.run(step, started(step), Points(), steps=13, chunk=5)
    assert len(traces) == 2  # Once for the shapes of the metrics, once for the program.


@pytest.mark.parametrize("name", ["steps", "chunk"])
def test_a_count_of_zero_is_refused(name):
    step = regression_step()
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1"):
        train.run(step, started(step), Points(), **{"steps": 5, name: 0})


def test_the_progress_off_a_terminal_is_a_line_now_and_then(capsys):
    step = regression_step()
    progress = train.Progress("tiny", steps=40, unit="rows")
    train.run(step, started(step), Points(), steps=40, chunk=1, progress=progress)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert lines[-1].startswith("tiny  step 40/40  loss ")
    assert "rows/s" in lines[-1]
