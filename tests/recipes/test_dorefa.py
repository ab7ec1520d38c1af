"""DoReFa as a recipe: numbers of levels, signs, and gradients that are right on average."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qjax.recipes import dorefa
from tests.draws import normal

W = normal(0, (32, 64))


def made(bits):
    return np.asarray(dorefa.weights(bits).apply(W, {}, (), contract=(0,), batch=(), key=None)[0])


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_weights_take_all_levels_of_the_formula(bits):
    top = 2**bits - 1
    unit = np.tanh(np.asarray(W)) / np.abs(np.tanh(np.asarray(W))).max()
    expected = 2 * np.round(top * (unit / 2 + 0.5)) / top - 1
    assert np.allclose(made(bits), expected, atol=1e-6)
    assert len(np.unique(made(bits).round(5))) == 2**bits


def test_one_bit_is_a_sign_times_the_mean_magnitude():
    mean = np.abs(np.asarray(W)).mean()
    assert np.allclose(made(1), np.where(np.asarray(W) >= 0, mean, -mean), rtol=1e-6)


@pytest.mark.parametrize(("leg", "contract"), [("dlhs", (1,)), ("drhs", (0,))])
def test_gradients_have_a_scale_per_sample_and_the_right_mean(leg, contract):
    """In both legs samples are the first axis; only one of them sums over it."""
    policy = dorefa.policy(8, 8, 2)
    gemm = getattr(policy, leg)
    quantizer = gemm.lhs if leg == "dlhs" else gemm.rhs
    g = W[:6, :8] * 10.0 ** jnp.arange(-3.0, 3.0)[:, None]
    draws = 800
    drawn = jax.vmap(lambda key: quantizer.cast(g, contract=contract, key=key))(
        jax.random.split(jax.random.key(1), draws)
    )
    units = np.asarray(drawn) / np.abs(np.asarray(g)).max(1, keepdims=True)
    assert np.allclose(np.unique(units.round(4)), [-1, -0.3333, 0.3333, 1], atol=1e-3)
    exact = np.asarray(g) / np.abs(np.asarray(g)).max(1, keepdims=True)
    assert np.abs(units.mean(0) - exact).max() < 5 * (1 / 3) / np.sqrt(draws)
