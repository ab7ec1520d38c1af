"""ShiftQuant: integer sums with shifts equal the product, and the L1 norm equals its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import recipes
from qjax.linen import L1Norm, l1_normalize
from qjax.recipes import shiftquant
from tests.draws import normal

RANGES = jnp.exp(1.2 * normal(0, (32,)))
G = normal(1, (16, 32)) * RANGES
W = normal(2, (8, 32))


def test_the_gradient_of_the_input_is_one_sum_of_shifted_integers():
    policy, key = recipes.get("shiftquant4").default, jax.random.key(3)
    x = jnp.ones((16, 8))
    _, back = jax.vjp(
        lambda x: qjax.dot_general(x, W, (((1,), (0,)), ((), ())), policy=policy, key=key), x
    )
    (dx,) = back(G)
    draw = qjax.rounding.derived(key, 3)  # Of the first operand of the second leg.
    g = policy.dlhs.lhs.encode(G, key=draw)
    w = policy.dlhs.rhs.encode(W)
    down = -np.log2(np.asarray(g.scale.qtype.format.load(g.scale.qvalue))).astype(int)
    assert down.max() == 3
    assert len(np.unique(down)) == 4
    whole = (np.asarray(g.qvalue, np.int64) << (3 - down)) @ np.asarray(w.qvalue, np.int64).T
    assert np.abs(whole).max() < 2**31
    unit = np.float64(g.scale.scale.decode().ravel()[0]) / 8
    scales = np.float64(w.scale.decode()).ravel()
    assert np.asarray(dx) == pytest.approx(whole * unit * scales, rel=1e-5, abs=1e-6)


def test_gradients_alone_are_grouped_along_what_is_summed_and_rounded_without_bias():
    policy = shiftquant.policy(4, 8)
    for (leg, operand), quantizer in policy.quantizers().items():
        assert (quantizer.qtype.tile.contract == 1) == (operand == "cotangent"), leg
        assert quantizer.stochastic == (operand == "cotangent")
    keys = jax.random.split(jax.random.key(4), 2000)
    cast = policy.dlhs.lhs.cast
    mean = jnp.mean(jax.vmap(lambda key: cast(G, key=key))(keys), axis=0)
    scale = np.asarray(policy.dlhs.lhs.encode(G, key=keys[0]).scale.decode())
    assert np.all(np.abs(mean - G) < 5 * 0.5 * scale / np.sqrt(2000) + 1e-5)


def test_small_channels_keep_their_gradients():
    def worst(quantizer):
        cast = quantizer.cast(G, key=jax.random.key(5))
        return float(jnp.median(jnp.mean((cast - G) ** 2, 0) / jnp.mean(G**2, 0)))

    grouped = shiftquant.policy(4, 8).dlhs.lhs
    whole = qjax.Quantizer(
        qjax.QType(qjax.formats.Int(4), qjax.Tile(), "float32"), rounding=grouped.rounding
    )
    assert worst(grouped) < 0.2 * worst(whole)


def test_the_l1_norm_is_the_standard_deviation_of_gaussians():
    x = 3 + 5 * normal(6, (4, 20000))
    assert np.std(l1_normalize(x), axis=1) == pytest.approx(np.ones(4), rel=0.02)
    assert np.mean(l1_normalize(x), axis=1) == pytest.approx(np.zeros(4), abs=1e-4)
    both = l1_normalize(x.reshape(4, 100, 200), (1, 2)).reshape(x.shape)
    assert np.allclose(both, l1_normalize(x), atol=1e-5)


def test_the_gradient_of_the_l1_norm_is_the_derived_one():
    x = normal(7, (5, 32))
    g = normal(8, (5, 32))
    _, back = jax.vjp(lambda x: l1_normalize(x, epsilon=0.0), x)
    k = np.sqrt(np.pi / 2)
    centered = x - x.mean(-1, keepdims=True)
    sigma = k * np.abs(centered).mean(-1, keepdims=True)
    signs = np.sign(centered)
    inner = k * (signs - signs.mean(-1, keepdims=True))
    mean = np.mean(g * centered / sigma, -1, keepdims=True)
    wanted = (g - g.mean(-1, keepdims=True) - inner * mean) / sigma
    assert np.allclose(back(g)[0], wanted, atol=1e-5)


def test_the_layer_learns_a_scale_and_an_offset():
    x = normal(9, (3, 16))
    variables = L1Norm().init(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, variables["params"]) == {"scale": (16,), "bias": (16,)}
    assert np.array_equal(L1Norm().apply(variables, x), l1_normalize(x))
    assert "params" not in L1Norm(use_scale=False, use_bias=False).init(jax.random.key(0), x)
