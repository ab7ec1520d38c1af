"""BitPruning: what widths cost, how they fall, and how they are settled."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import qjax
from qjax.contraction.variables import Values
from qjax.recipes import bitpruning
from qjax.train import freeze_after
from tests.draws import normal

DIMENSIONS = (((1,), (0,)), ((), ()))
X = normal(0, (16, 8))
W = normal(1, (8, 4))


def run(price, steps, *, by_size=False, task=1.0):
    """Widths of both operands after some steps on the error of their product."""
    policy = bitpruning.policy(6.5, price, by_size=by_size)
    values = Values()
    qjax.dot_general(X, W, DIMENSIONS, policy=policy, variables=values)

    def loss(params):
        used = Values(params, {})
        out = qjax.dot_general(X, W, DIMENSIONS, policy=policy, variables=used)
        return task * jnp.mean((out - X @ W) ** 2) + sum(used.penalties.values())

    @jax.jit
    def train(params):
        def one(params, _):
            return jax.tree.map(lambda p, g: p - 0.5 * g, params, jax.grad(loss)(params)), None

        return jax.lax.scan(one, params, None, length=steps)[0]

    params = train(values.params)
    return [float(params[side]["bits"]) for side in ("fwd_lhs", "fwd_rhs")]


def test_with_nothing_to_learn_widths_fall_to_one_and_with_no_price_they_stay():
    assert max(run(1.0, 20, task=0.0)) <= 1.0
    assert min(run(0.0, 20)) >= 6.4


def test_mean_widths_fall_as_the_price_rises():
    means = [np.mean(run(price, 60)) for price in (0.01, 0.1, 1.0)]
    assert means[0] > means[1] > means[2]


def test_a_price_by_size_is_per_bit_of_an_element():
    left, right = run(0.001, 1, by_size=True, task=0.0)
    assert 6.5 - left == pytest.approx(0.5 * 0.001 * X.size, rel=1e-4)
    assert 6.5 - right == pytest.approx(0.5 * 0.001 * W.size, rel=1e-4)


def test_widths_are_rounded_up_once_and_then_frozen_while_the_rest_goes_on():
    params = {"up": {"kernel": jnp.ones(2), "quant": {"fwd_lhs": {"bits": jnp.float32(4.3)}}}}
    settle = freeze_after(2, bitpruning.WIDTHS, final=jnp.ceil)
    optimizer = optax.chain(optax.sgd(0.25), settle)
    state, seen = optimizer.init(params), []
    for _ in range(5):
        gradients = jax.tree.map(jnp.ones_like, params)
        updates, state = jax.jit(optimizer.update)(gradients, state, params)
        params = optax.apply_updates(params, updates)
        seen.append(float(params["up"]["quant"]["fwd_lhs"]["bits"]))
    assert np.allclose(seen[:2], [4.05, 3.8])
    assert seen[2:] == [4.0, 4.0, 4.0]
    assert params["up"]["kernel"].tolist() == [-0.25, -0.25]
    with pytest.raises(ValueError, match=r"`final` value, but `update` got no parameters"):
        optimizer.update(params, state)


def test_the_recipe_starts_at_eight_bits_and_one_bit_of_an_operand_costs_a_hundredth():
    policy = qjax.recipes.get("bitpruning").default
    values = Values()
    qjax.dot_general(X, W, DIMENSIONS, policy=policy, variables=values)
    assert [float(values.params[side]["bits"]) for side in ("fwd_lhs", "fwd_rhs")] == [8.0, 8.0]
    assert float(sum(values.penalties.values())) == pytest.approx(2 * 8 * 0.01)
