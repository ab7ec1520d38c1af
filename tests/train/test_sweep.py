"""A sweep trains many formats in one program, and each as if it had trained alone."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
from tiny import Symbols, TinyLM

import qjax
from qjax import Gemm, Policy, formats, operands, qtypes, train
from qjax.quantizer import Quantizer
from qjax.rounding import Stochastic

HELD_OUT = [Symbols()[1000], Symbols()[1001]]
LSQ = operands.LSQ(bits=4)
TRACES = []


def mx(exponent, mantissa, rounding=None):
    qtype = dataclasses.replace(
        qtypes.MXFP8, format=formats.Float(exponent, mantissa, family="finite")
    )
    options = {} if rounding is None else {"rounding": rounding, "scale": "floor"}
    return qjax.recipes.get(Quantizer(qtype, **options))


class Counted(train.Step):
    """Counts how often it is traced."""

    def __call__(self, state, batch):
        TRACES.append(1)
        return super().__call__(state, batch)


def make_step(recipe, rate):
    task = train.LinenTask(model=TinyLM(), quantize=qjax.quantize)
    return Counted(task=task, optimizer=optax.sgd(rate), recipe=recipe)


def alone(trial, steps):
    """The held-out losses of a trial that trains by itself, with static bits."""
    step = make_step(trial.recipe, trial.rate)
    state = step.init(jax.random.key(trial.seed), Symbols()[0])
    result = train.run(step, state, Symbols(), steps=steps, chunk=steps)
    keys = jax.random.split(jax.random.key(0), 2)
    return [float(step.evaluate(result.state, b, k)) for b, k in zip(HELD_OUT, keys)]


def test_every_trial_ends_as_if_it_had_trained_alone_and_all_compile_once():
    trials = [
        train.Trial(recipe=mx(2, 1, Stochastic()), rate=0.5),
        train.Trial(recipe=mx(4, 3, Stochastic()), rate=0.5, seed=1),
        train.Trial(recipe=mx(5, 2, Stochastic()), rate=0.1),
    ]
    TRACES.clear()
    rows = train.sweep(
        trials, make_step, Symbols(), steps=11, held_out=HELD_OUT, chunk=4, at_once=2
    )
    assert len(TRACES) == 2  # Once for the shapes of the metrics, once for the program.
    for trial, row in zip(trials, rows):
        losses = alone(trial, 11)
        assert row["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
        assert row["loss_se"] == pytest.approx(np.std(losses, ddof=1) / np.sqrt(2), rel=1e-3)
        assert row["status"] == "ok"
    assert [(row["E"], row["M"], row["B"]) for row in rows] == [(2, 1, 32), (4, 3, 32), (5, 2, 32)]
    assert len({row["loss"] for row in rows}) == 3


def test_recipes_of_other_structures_train_too():
    names = (None, "mxfp8", "int8_channel", "mxfp4_rne")
    trials = [
        train.Trial(recipe=name and qjax.recipes.get(name), rate=0.5, columns={"N": 5})
        for name in names
    ]
    rows = train.sweep(trials, make_step, Symbols(), steps=3, held_out=HELD_OUT)
    assert [row["format"] for row in rows] == ["float32", "mxfp8", "int8_channel", "mxfp4"]
    assert rows[0]["bits"] == "32"
    assert {row["N"] for row in rows} == {5}
    assert rows[2]["E"] == 0
    assert rows[2]["M"] == 7


def test_a_run_that_diverges_is_a_row_and_harms_no_other():
    good, bad = (train.Trial(recipe=mx(4, 3), rate=r) for r in (0.5, 1e20))
    rows = train.sweep([bad, good], make_step, Symbols(), steps=6, held_out=HELD_OUT, chunk=3)
    assert rows[0]["status"].startswith("diverged at step ")
    assert rows[0]["loss"] == ""
    assert rows[0]["final"] is False
    assert rows[1]["loss"] == pytest.approx(np.mean(alone(good, 6)), rel=1e-5)


def test_a_sweep_goes_on_where_its_table_ends(tmp_path):
    path = tmp_path / "sub" / "table.csv"
    trials = [train.Trial(recipe=mx(4, m), rate=0.5) for m in (1, 2, 3)]
    options = {"steps": 2, "held_out": HELD_OUT, "table": path}
    first = train.sweep(trials[:2], make_step, Symbols(), **options)
    TRACES.clear()
    again = train.sweep(trials[:2], make_step, Symbols(), **options)
    assert TRACES == []
    assert [row["loss"] for row in again] == [row["loss"] for row in first]
    everything = train.sweep(trials, make_step, Symbols(), **options)
    assert [row["M"] for row in train.read_table(path)] == [1, 2, 3]
    assert everything[:2] == again
    longer = train.sweep(trials[:1], make_step, Symbols(), **{**options, "steps": 3})
    assert longer[0]["loss"] != everything[0]["loss"]
    assert [row["steps"] for row in train.read_table(path)] == [2, 2, 2, 3]


def test_recipes_that_learn_start_and_train_in_a_sweep_as_alone():
    trials = [
        train.Trial(
            recipe=qjax.recipes.get(Policy(fwd=Gemm(mx(4, m).default.fwd.lhs, LSQ))), rate=0.5
        )
        for m in (2, 3)
    ]
    rows = train.sweep(trials, make_step, Symbols(), steps=3, held_out=HELD_OUT)
    for trial, row in zip(trials, rows):
        assert row["loss"] == pytest.approx(np.mean(alone(trial, 3)), rel=1e-5)


def test_trials_spread_over_devices_give_the_same_rows():
    trials = [train.Trial(recipe=mx(4, m), rate=0.5) for m in (0, 1, 2, 3)]
    options = {"steps": 3, "held_out": HELD_OUT}
    one = train.sweep(trials, make_step, Symbols(), **options)
    four = train.sweep(trials, make_step, Symbols(), mesh=train.make_mesh(trials=4), **options)
    for a, b in zip(one, four):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-6)


def test_the_same_run_twice_is_refused():
    trials = [train.Trial(recipe=mx(4, 3)), train.Trial(recipe=mx(4, 3))]
    with pytest.raises(ValueError, match="2 came with 1 different names"):
        train.sweep(trials, make_step, Symbols(), steps=1, held_out=HELD_OUT)


def test_a_table_reads_back_what_was_written(tmp_path):
    rows = [{"a": 1, "b": 0.1 + 0.2, "c": "x/y", "d": True}, {"a": -3, "b": "", "e": 1e-30}]
    train.write_table(rows, tmp_path / "t.csv")
    back = train.read_table(tmp_path / "t.csv")
    assert back[0] == {**rows[0], "e": ""}
    assert back[1] == {"a": -3, "b": "", "c": "", "d": "", "e": 1e-30}
