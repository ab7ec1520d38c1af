"""Schedules choose a recipe's numbers on the device: many recipes, one program."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import Symbols, TinyLM, same

import qjax
from qjax import formats, qtypes, train
from qjax.quantizer import Quantizer

BITS = ((2, 1), (2, 3), (3, 2), (3, 4), (4, 3), (4, 5), (5, 2), (5, 6), (6, 7), (7, 7))


def mx(exponent, mantissa):
    """The MX recipe with elements of these bits."""
    qtype = dataclasses.replace(
        qtypes.MXFP8, format=formats.Float(exponent, mantissa, family="finite")
    )
    return qjax.recipes.get(Quantizer(qtype))


class Counted(train.Step):
    """Counts how often it is traced."""

    def __call__(self, state, batch):
        TRACES.append(1)
        return super().__call__(state, batch)


TRACES = []


def lm_step(recipe, kind=train.Step):
    task = train.LinenTask(model=TinyLM(), quantize=qjax.quantize)
    return kind(task=task, optimizer=optax.sgd(0.3), recipe=recipe)


def begin(step, seed=0):
    return step.init(jax.random.key(seed), Symbols()[0])


def test_ten_changes_of_bits_compile_once_and_equal_ten_static_runs():
    recipes = [mx(*bits) for bits in BITS]
    schedule = train.Piecewise(recipes, range(2, 20, 2))
    step = lm_step(schedule, Counted)
    TRACES.clear()
    result = train.run(step, begin(step), Symbols(), steps=20, chunk=5)
    assert len(TRACES) == 2  # Once for the shapes of the metrics, once for the program.

    state, losses = begin(lm_step(recipes[0])), []
    for k, recipe in enumerate(recipes[:4]):
        static = jax.jit(lm_step(recipe))
        for t in range(2 * k, 2 * k + 2):
            state, metrics = static(state, Symbols()[t])
            losses.append(float(metrics["loss"]))
    np.testing.assert_allclose(result.history["loss"][:8], losses, rtol=1e-5)
    assert len(set(result.history["loss"])) == 20


def test_numbers_that_all_recipes_share_stay_python_numbers():
    chosen = train.schedules.choose([mx(4, 3), mx(4, 5)], jnp.int32(1))
    element = chosen.default.fwd.lhs.qtype.format
    assert element.exponent_bits == 4
    assert isinstance(element.exponent_bits, int)
    assert int(element.mantissa_bits) == 5
    assert chosen.default.fwd.lhs.qtype.scale == qtypes.MXFP8.scale


def test_a_computed_schedule_follows_the_step():
    def recipe(step):
        qtype = dataclasses.replace(
            qtypes.MXFP8, format=formats.Float(4, jnp.minimum(step // 3, 7), family="finite")
        )
        return qjax.recipes.get(Quantizer(qtype))

    step = lm_step(train.Computed(recipe))
    state = begin(step).replace(step=jnp.int32(9))
    computed, _ = step(state, Symbols()[0])
    static, _ = lm_step(mx(4, 3))(state, Symbols()[0])
    assert same(jax.tree.leaves(computed.params), jax.tree.leaves(static.params))


@pytest.mark.parametrize(
    ("losses", "levels"),
    [
        ([5.0, 4.0, 3.0, 2.0, 1.0, 0.5], [0, 0, 0, 0, 0, 0]),
        ([5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0], [0, 0, 1, 1, 2, 2, 2]),
        ([5.0, 5.0, 5.0, 1.0, 0.5, 0.5, 0.5], [0, 0, 1, 1, 1, 1, 2]),
    ],
)
def test_a_plateau_moves_up_after_steps_without_progress(losses, levels):
    schedule = train.Plateau(
        recipes=[mx(2, 1), mx(4, 3), mx(5, 7)], patience=2, smoothing=0.0, threshold=0.01
    )
    state, found = schedule.init(), []
    for loss in losses:
        state = schedule.update(state, {"loss": jnp.float32(loss)})
        found.append(int(state.level))
    assert found == levels


def test_the_state_of_a_plateau_is_carried_by_the_run():
    schedule = train.Plateau(recipes=[mx(2, 1), mx(4, 3)], patience=2, threshold=0.9)
    step = lm_step(schedule)
    result = train.run(step, begin(step), Symbols(), steps=8, chunk=4)
    assert int(result.state.schedule.level) == 1
    assert np.isfinite(float(result.state.schedule.loss))


class Lines(train.Progress):
    """Keeps what is said."""

    def __init__(self):
        super().__init__("", steps=1)
        self.lines = []

    def __enter__(self):
        return self

    def update(self, step, loss, per_second):
        pass

    def say(self, text):
        self.lines.append(text)


def test_phases_switch_programs_at_their_step_and_say_so():
    phases = train.Phases((qjax.recipes.get("mxfp4_rne"), None), (5,))
    step, lines = lm_step(phases), Lines()
    evaluate = train.make_evaluator(step, [Symbols()[100]])
    result = train.run(
        step, begin(step), Symbols(), steps=8, chunk=3, progress=lines, evaluate=evaluate
    )
    announced = [line for line in lines.lines if "compilation" in line]
    assert announced == [
        "step 0: mxfp4_rne from here on, one more compilation",
        "step 5: no recipe from here on, one more compilation",
    ]
    first = train.run(lm_step(phases.recipes[0]), begin(step), Symbols(), steps=5, chunk=3)
    rest = train.run(lm_step(None), first.state, Symbols(), steps=8, chunk=3)
    assert same(rest.state, result.state)
    expected = train.make_evaluator(lm_step(None), [Symbols()[100]])(rest.state)
    assert np.array_equal(result.evaluations[-1].losses, expected.losses)


def test_recipes_of_different_structure_are_refused_for_one_program():
    other = qjax.recipes.get(Quantizer(qtypes.NVFP4))
    with pytest.raises(ValueError, match=r"(?s)numbers alone, but recipe 1 .* use `Phases`"):
        train.Piecewise((mx(2, 1), other), (5,))


@pytest.mark.parametrize("boundaries", [(), (5, 4), (5, 5), (1, 2, 3)])
def test_boundaries_must_increase_and_fit(boundaries):
    recipes = (mx(2, 1), mx(4, 3), mx(5, 2))
    with pytest.raises(ValueError, match="3 recipes need 2 increasing boundaries"):
        train.Piecewise(recipes, boundaries)
    with pytest.raises(ValueError, match="3 recipes need 2 increasing boundaries"):
        train.Phases(recipes, boundaries)


def test_phases_outside_a_run_are_refused():
    step = lm_step(train.Phases((None, None), (5,)))
    with pytest.raises(TypeError, match=r"step\.in_phase\(k\)"):
        step(begin(step), Symbols()[0])
