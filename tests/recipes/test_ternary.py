"""BitNet b1.58 and TriLM against their definition, and as products of integers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import recipes
from qjax.recipes import ternary
from tests.draws import normal

X = normal(0, (8, 64))
W = normal(1, (64, 32)) * 0.02
DOT = (((1,), (0,)), ((), ()))


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(32, use_bias=False, name="up")(x)


def weights():
    return recipes.get("trilm").default.fwd.rhs.quantizer


def test_weights_are_signs_times_the_mean_magnitude():
    values = np.asarray(weights().cast(W, contract=(0,)))
    mean = np.mean(np.abs(np.asarray(W)))
    oracle = np.clip(np.round(np.asarray(W) / mean), -1, 1)
    assert np.array_equal(np.sign(values), oracle)
    assert np.abs(values[values != 0]) == pytest.approx(mean, rel=1e-6)
    assert weights().cast(jnp.zeros((4, 4)), contract=(0,)).tolist() == np.zeros((4, 4)).tolist()
    halves = jnp.float32([[2.0, 0.5, -0.5, 1.0]])  # Of mean 1: the halves are ties.
    assert weights().cast(halves, contract=(1,)).tolist() == [[1, 0, 0, 1]]


def test_of_gaussian_weights_a_third_is_zero():
    draws = normal(2, (512, 512))
    zero = float(jnp.mean(weights().cast(draws, contract=(0,)) == 0))
    assert zero == pytest.approx(0.310, abs=0.005)


def test_a_frozen_mean_makes_the_cast_idempotent():
    from qjax import Quantizer, calibration

    mean = float(jnp.mean(jnp.abs(W)))
    frozen = Quantizer(ternary.TERNARY, calibration=calibration.Fixed(mean))
    once = frozen.cast(W, contract=(0,))
    assert np.array_equal(frozen.cast(once, contract=(0,)), once)


def test_a_product_is_one_of_small_integers():
    out = qjax.quantize(Layer(), "bitnet_b158").apply({"params": {"up": {"kernel": W}}}, X)
    policy = recipes.get("bitnet_b158").default
    a = policy.fwd.lhs.quantizer.encode(X)
    b = policy.fwd.rhs.quantizer.encode(W, contract=(0,))
    assert set(np.unique(b.qvalue)) == {-1, 0, 1}
    assert int(np.abs(np.asarray(a.qvalue)).max()) == 127
    assert a.scale.shape == (8, 1), "a scale for every token"
    assert b.scale.shape == (1, 1), "and one for all weights"
    whole = np.asarray(a.qvalue, np.int64) @ np.asarray(b.qvalue, np.int64)
    scales = np.float64(a.scale.decode()) * np.float64(b.scale.decode())
    assert np.asarray(out) == pytest.approx(whole * scales, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", ["bitnet_b158", "trilm"])
def test_gradients_pass_the_rounding_and_see_ternary_weights(name):
    def loss(w, x):
        return jnp.sum(
            jnp.sin(qjax.quantize(Layer(), name).apply({"params": {"up": {"kernel": w}}}, x))
        )

    dw, dx = jax.jit(jax.grad(loss, argnums=(0, 1)))(W, X)
    values = weights().cast(W, contract=(0,))
    inputs = X
    if name == "bitnet_b158":
        inputs = recipes.get(name).default.fwd.lhs.quantizer.cast(X)
    g = jnp.cos(inputs @ values)
    assert np.allclose(dx, g @ values.T, atol=1e-5)
    assert np.allclose(dw, inputs.T @ g, atol=1e-5)
