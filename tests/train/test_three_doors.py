"""Linen modules, nnx modules and plain functions train alike: stateless, remembering, learning."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

import qjax
from qjax import train

RECIPES = ("mxfp4", "fp8_delayed", "lsq4")
X = jax.random.normal(jax.random.key(0), (32, 16))
BATCH = {"inputs": X, "targets": jnp.argmax(X[:, :4], axis=1)}


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4, name="down")(nn.relu(nn.Dense(32, name="up")(x)))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.up, self.down = nnx.Linear(16, 32, rngs=rngs), nnx.Linear(32, 4, rngs=rngs)

    def __call__(self, x):
        return self.down(nnx.relu(self.up(x)))


def function(params, batch, key):
    del key
    x = batch["inputs"]
    with jax.named_scope("up"):
        x = nn.relu(x @ params["up"])
    with jax.named_scope("down"):
        logits = x @ params["down"]
    return train.cross_entropy(logits, batch)


def start(key):
    up, down = jax.random.split(key)
    return {
        "up": jax.random.normal(up, (16, 32)) / 4,
        "down": jax.random.normal(down, (32, 4)) / 6,
    }


TASKS = {
    "linen": lambda: train.LinenTask(model=Linen(), quantize=qjax.quantize),
    "nnx": lambda: train.NnxTask(model=Nnx(nnx.Rngs(0)), quantize=qjax.quantize),
    "function": lambda: train.FunctionTask(loss_fn=function, init_fn=start, quantize=qjax.quantize),
}


class Same:
    """One batch again and again."""

    def __getitem__(self, step):
        return jax.tree.map(np.asarray, BATCH)


def trained(task, recipe, steps=40):
    step = train.Step(task=task, optimizer=optax.adam(1e-2), recipe=recipe)
    state = step.init(jax.random.key(0), BATCH)
    before = jax.tree.map(jnp.copy, (state.params, state.variables))
    return before, step, train.run(step, state, Same(), steps=steps, chunk=20)


def learned(tree):
    """Values that operands learn, by the word on their path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = [(jax.tree_util.keystr(path), np.array(leaf)) for path, leaf in leaves]
    return {name: leaf for name, leaf in named if "step" in name}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("door", TASKS)
def test_every_door_trains_with_every_kind_of_recipe(door, recipe):
    (params, variables), step, result = trained(TASKS[door](), recipe)
    losses = result.history["loss"]
    assert losses[-1] < 0.6 * losses[0]
    assert jax.tree.structure(result.state.params) == jax.tree.structure(params)
    moved = learned(result.state.params)
    assert len(moved) == (4 if recipe == "lsq4" else 0)
    assert all(np.any(moved[name] != value) for name, value in learned(params).items())
    for kind in (train.memory.split, train.memory.forward):
        before, after = kind(variables), kind(result.state.variables)
        assert len(after) == (4 if recipe == "fp8_delayed" else 0), after.keys()
        assert all(np.any(before[name] != states) for name, states in after.items())
    assert np.isfinite(float(step.evaluate(result.state, BATCH, jax.random.key(1))))


def test_what_operands_of_a_function_ask_for_is_part_of_its_loss():
    """Each bit costs something: bits that are learned fall from step to step."""
    _, step, result = trained(TASKS["function"](), "bitpruning", steps=3)
    assert np.all(np.diff(result.history["penalty"]) < 0)
    assert result.history["penalty"][-1] > 0
    free = float(step.evaluate(result.state, BATCH, jax.random.key(1)))
    _, metrics = step(result.state, BATCH)
    assert float(metrics["loss"]) == pytest.approx(free + float(metrics["penalty"]), rel=1e-5)


def quantized_before(door, recipe):
    """The same task with its model quantized by hand."""
    if door == "linen":
        return train.LinenTask(model=qjax.quantize(Linen(), recipe))
    if door == "nnx":
        module = qjax.quantize(Nnx(nnx.Rngs(0)), recipe, example=(X,))
        return train.NnxTask(model=module)
    loss = qjax.quantize(function, recipe, weights=0)
    return train.FunctionTask(loss_fn=loss, init_fn=start)


@pytest.mark.parametrize("door", TASKS)
def test_the_recipe_of_a_step_starts_as_a_model_quantized_beforehand(door):
    optimizer, recipe = optax.sgd(0.1), "lsq4"
    one = train.Step(task=TASKS[door](), optimizer=optimizer, recipe=recipe)
    other = train.Step(task=quantized_before(door, recipe), optimizer=optimizer)
    a, b = (step.init(jax.random.key(0), BATCH) for step in (one, other))
    chex.assert_trees_all_close((a.params, a.variables), (b.params, b.variables), rtol=1e-6)


@pytest.mark.parametrize("door", ["linen", "nnx"])
def test_a_later_phase_may_learn(door):
    """Its values are there from the start, rest while no phase uses them, and then move."""
    phases = train.Phases((None, "lsq4"), (20,))
    (params, _), step, result = trained(TASKS[door](), phases, steps=20)
    resting = learned(result.state.params)
    assert len(resting) == 4
    assert all(np.all(resting[name] == value) for name, value in learned(params).items())
    last = train.run(step, result.state, Same(), steps=21, chunk=1).state
    assert all(np.any(resting[name] != value) for name, value in learned(last.params).items())


def test_phases_of_a_function_that_learn_and_do_not_are_refused():
    phases = train.Phases((None, "lsq4"), (20,))
    step = train.Step(task=TASKS["function"](), optimizer=optax.sgd(0.1), recipe=phases)
    with pytest.raises(ValueError, match="phases have different forms"):
        step.init(jax.random.key(0), BATCH)
