"""Checkpoints are whole or absent, resume bit for bit, and refuse what they were not made for."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import (
    Points,
    Symbols,
    TinyLM,
    regression_step,
    remembering_step,
    same,
    started,
)

import qjax
from qjax import train

pytest.importorskip("orbax.checkpoint")

HERE = pathlib.Path(__file__).parent


def full_step():
    """A step whose state has every part there is."""
    return regression_step(loss_scale=train.DynamicScale(interval=3), ema=0.9)


def plain():
    return full_step(), Points()


def remembering():
    return remembering_step(), Symbols()


@pytest.mark.parametrize("make", [plain, remembering])
def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(make, tmp_path):
    step, batches = make()
    whole = train.run(step, started(step, batches), batches, steps=20, chunk=5)
    with train.Checkpoints(tmp_path, every=8) as checkpoints:
        fresh = started(step, batches)
        train.run(step, fresh, batches, steps=9, chunk=4, checkpoints=checkpoints)
    with train.Checkpoints(tmp_path, every=8) as checkpoints:
        assert checkpoints.latest == 9
        state, position = checkpoints.resume(started(step, batches, seed=7))
        assert position is None
        rest = train.run(step, state, batches, steps=20, chunk=4, checkpoints=checkpoints)
    assert same(rest.state, whole.state)
    assert np.array_equal(rest.history["loss"], whole.history["loss"][9:])


def test_what_is_resumed_there_learns_remembers_and_follows_a_schedule():
    """Or the test above would say less than it seems to."""
    step, batches = remembering()
    fresh = started(step, batches)
    names = {jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(fresh)}
    for word in ("'quant']['fwd_rhs']['step']", "'fwd_lhs'", "'dlhs_lhs'", ".schedule.level"):
        assert any(word in name for name in names), (word, names)
    last = train.run(step, fresh, batches, steps=9, chunk=9).state
    assert int(last.schedule.level) == 1


def test_saving_survives_the_donation_of_what_is_saved(tmp_path):
    step = full_step()
    take = jax.jit(step, donate_argnums=0)
    state, saved = started(step), {}
    with train.Checkpoints(tmp_path, keep=10) as checkpoints:
        for t in range(5):
            state, _ = take(state, Points()[t])
            saved[t + 1] = jax.tree.map(jnp.copy, state)
            checkpoints.save(state)
    with train.Checkpoints(tmp_path, keep=10) as checkpoints:
        for t, expected in saved.items():
            assert same(checkpoints.resume(started(step), step=t)[0], expected)


def test_the_latest_and_the_best_are_kept(tmp_path):
    step = regression_step()
    state = started(step)
    with train.Checkpoints(tmp_path, keep=2) as checkpoints:
        for t, loss in enumerate([0.3, 0.1, None, 0.5, 0.4], 1):
            checkpoints.save(state.replace(step=jnp.int32(t)), loss=loss)
        checkpoints.wait()
        assert (checkpoints.latest, checkpoints.best) == (5, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "4", "5"]


def test_a_run_without_evaluations_keeps_the_latest_and_warns_of_nothing(tmp_path, caplog):
    state = started(regression_step())
    with train.Checkpoints(tmp_path, keep=2) as checkpoints:
        for t in range(1, 5):
            checkpoints.save(state.replace(step=jnp.int32(t)))
        checkpoints.wait()
        assert (checkpoints.latest, checkpoints.best) == (4, None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["3", "4"]
    assert [r.message for r in caplog.records if r.levelname == "WARNING"] == []


def test_a_folder_without_checkpoints_gives_back_the_fresh_state(tmp_path):
    step = regression_step()
    state = started(step)
    with train.Checkpoints(tmp_path / "new") as checkpoints:
        assert checkpoints.resume(state)[0] is state


def test_another_recipe_is_refused_and_the_difference_shown(tmp_path):
    step = regression_step()
    with train.Checkpoints(tmp_path, recipe=("mxfp8", 1)) as checkpoints:
        checkpoints.save(started(step))
    with (
        train.Checkpoints(tmp_path, recipe=("mxfp4", 1)) as checkpoints,
        pytest.raises(ValueError, match=r"(?s)another recipe.*-\('mxfp8'.*\+\('mxfp4'"),
    ):
        checkpoints.resume(started(step))


def test_another_model_is_refused_and_the_difference_shown(tmp_path):
    step = regression_step()
    with train.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(started(step))
    larger = started(step).replace(params={"w": jnp.zeros(5), "b": jnp.zeros(())})
    with (
        train.Checkpoints(tmp_path) as checkpoints,
        pytest.raises(ValueError, match=r"params/w: float32\[4\] there, float32\[5\] asked for"),
    ):
        checkpoints.resume(larger)


def test_codes_of_another_type_are_refused_though_they_look_the_same(tmp_path):
    packed = lambda name: {"w": qjax.encode(jnp.arange(4.0), name), "b": jnp.zeros(())}  # noqa: E731
    state = started(regression_step())
    with train.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state.replace(params=packed("mxfp4")))
    with train.Checkpoints(tmp_path) as checkpoints:
        same_type, _ = checkpoints.resume(state.replace(params=packed("mxfp4")))
        np.testing.assert_array_equal(same_type.params["w"].decode(), packed("mxfp4")["w"].decode())
        other = r"params/w: QTensor\(mxfp4, .* there, QTensor\(mxfp6_e2m3, .* asked for"
        with pytest.raises(ValueError, match=other):
            checkpoints.resume(state.replace(params=packed("mxfp6_e2m3")))


def test_another_layout_is_refused_and_its_versions_named(tmp_path, monkeypatch):
    with train.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(started(regression_step()))
    monkeypatch.setattr("qjax.train.checkpoints.FILE_FORMAT", 2)
    with (
        train.Checkpoints(tmp_path) as checkpoints,
        pytest.raises(ValueError, match=r"has layout 1, .* reads layout 2.*'qjax': "),
    ):
        checkpoints.resume(started(regression_step()))


def test_a_nan_leaves_the_last_good_checkpoint(tmp_path):
    step = regression_step()
    with train.Checkpoints(tmp_path, every=5) as checkpoints:
        with pytest.raises(train.Diverged, match="step 13"):
            train.run(
                step,
                started(step),
                Points(spoiled=12),
                steps=30,
                chunk=5,
                checkpoints=checkpoints,
            )
        checkpoints.wait()
        assert checkpoints.latest == 10
        state, _ = checkpoints.resume(started(step))
    expected = train.run(step, started(step), Points(), steps=10, chunk=5).state
    assert same(state, expected)


def test_no_checkpoints_at_all_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`keep` and `every` must be at least 1"):
        train.Checkpoints(tmp_path, keep=0)


def test_a_model_with_dropout_keys_is_saved_and_found(tmp_path):
    step = train.Step(task=train.LinenTask(model=TinyLM()), optimizer=regression_step().optimizer)
    state = step.init(jax.random.key(3), Symbols()[0])
    with train.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state)
        checkpoints.wait()
        found, _ = checkpoints.resume(step.init(jax.random.key(4), Symbols()[0]))
    assert same(found, state)


def launch(folder, steps, *more):
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")]),
        "XLA_FLAGS": "",
    }
    return subprocess.Popen(
        [sys.executable, HERE / "killable.py", folder, str(steps), *map(str, more)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def losses(folder):
    return [r["loss"] for r in train.read_metrics(folder / "run.jsonl") if "loss" in r]


@pytest.mark.parametrize(
    ("kills", "steps"), [(1, 60), pytest.param(20, 300, marks=pytest.mark.slow)]
)
def test_killed_processes_resume_to_the_same_losses(tmp_path, kills, steps):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert launch(whole, steps).communicate()[0].endswith(f"done {steps}\n")
    draw, starts = random.Random(0), []
    for _ in range(kills):
        process = launch(killed, steps)
        starts.append(int(process.stdout.readline().split()[1]))
        time.sleep(draw.uniform(0.5, 2.0))
        process.kill()
        process.communicate()
    out, errors = launch(killed, steps).communicate()
    assert out.endswith(f"done {steps}\n"), errors
    assert starts == sorted(starts)
    assert losses(killed) == losses(whole)
    assert len(losses(whole)) == steps


def test_sigterm_saves_and_exits_with_its_own_code(tmp_path):
    process = launch(tmp_path, 10_000)
    process.stdout.readline()
    while not losses(tmp_path):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    with train.Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest == len(losses(tmp_path))


def test_a_full_disk_is_reported_and_the_last_good_checkpoint_is_intact(tmp_path):
    assert launch(tmp_path, 8).communicate()[0].endswith("done 8\n")
    process = launch(tmp_path, 60, 4000)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "could not be written" in errors
    assert "the last whole one is 8" in errors
    out, errors = launch(tmp_path, 12).communicate()
    assert out == "from 8\ndone 12\n", errors
