"""FracTrain: what it costs, and gates that keep to a target through schedules and doors."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest

import qjax
from qjax import train
from qjax.recipes import catalogue, fractrain
from tests.draws import normal


def test_cost_is_the_mean_of_bits_times_bits_of_the_three_products():
    assert fractrain.cost(32, 32) == 1
    assert fractrain.cost(8, 8) == pytest.approx(1 / 16)
    # fw = a w, error = g w, weight gradient = a g, by the authors' code.
    assert fractrain.cost(3, 6, 4) == pytest.approx((3 * 4 + 6 * 4 + 3 * 6) / (3 * 1024))
    assert catalogue.bits(qjax.recipes.get("fractrain_dynamic")) == ("4", "3-6", "6-12")


def test_every_output_keeps_its_range_in_both_products_that_its_weights_enter():
    """Outputs are kept forward and summed over backward; one range is all that they share."""
    policy = fractrain.policy(4, 8, weight=3)
    w = normal(0, (24, 6)) * jnp.exp2(jnp.arange(6.0)) + 1
    forward = policy.fwd.rhs.encode(w, contract=(0,))
    backward = policy.dlhs.rhs.encode(w, contract=(1,))
    assert forward.scale.shape == backward.scale.shape == (1, 6)
    assert jnp.array_equal(forward.decode(), backward.decode())
    levels = jnp.stack([w.min(0), w.max(0)])
    assert jnp.allclose(jnp.stack([forward.decode().min(0), forward.decode().max(0)]), levels,
                        rtol=1e-4, atol=1e-4)  # fmt: skip
    for leg, side in (("fwd", "lhs"), ("dlhs", "lhs"), ("drhs", "lhs"), ("drhs", "rhs")):
        part = getattr(getattr(policy, leg), side)
        gradient = (leg, side) in (("dlhs", "lhs"), ("drhs", "rhs"))
        assert part.qtype.format.bits == (8 if gradient else 4)
        assert part.stochastic == gradient


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4, name="out")(nn.relu(nn.Dense(16, name="up")(x)))


def test_measured_costs_come_near_each_of_successive_targets_in_one_program():
    """Targets differ in numbers alone, so that a schedule can raise them."""
    targets, steps = (0.02, 0.03), 150
    recipes = fractrain.targets(targets)
    task = train.LinenTask(model=qjax.quantize(Net(), recipes[0]), quantize=qjax.quantize)
    schedule = train.Piecewise(recipes, (steps,))
    step = train.Step(task=task, optimizer=optax.adam(1e-2), recipe=schedule)

    def draw(key):
        x = jax.random.normal(key, (64, 8))
        return {"inputs": x, "targets": jnp.argmax(x[:, :4], axis=1)}

    def body(state, key):
        state = step(state, draw(key))[0]
        return state, fractrain.measured(state.variables)

    state = step.init(jax.random.key(1), draw(jax.random.key(0)))
    keys = jax.random.split(jax.random.key(2), 2 * steps)
    _, costs = jax.jit(lambda s: jax.lax.scan(body, s, keys))(state)
    for target, part in zip(targets, costs.reshape(2, steps)):
        assert float(part[-50:].mean()) == pytest.approx(target, rel=0.1)
