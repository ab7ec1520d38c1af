"""HQ-LSS: integers in the Hadamard domain, learned steps, and drawn rows of split gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import qjax
from qjax import Policy, linen
from qjax.contraction import Hadamard
from qjax.contraction.variables import Values
from qjax.recipes import int4_transformer
from tests.draws import normal

DOT = (((1,), (0,)), ((), ()))
X, W, G = (normal(i, s) for i, s in enumerate(((48, 64), (64, 24), (48, 24))))
H = scipy.linalg.block_diag(*2 * [scipy.linalg.hadamard(32) / np.sqrt(32)]).astype(np.float32)


def initial_step(v):
    return 2 * np.abs(v).mean() / np.sqrt(np.float32(7))


def codes(v):
    step = initial_step(v)
    return np.clip(np.rint(v / step), -7, 7), step


def run(policy, key=None):
    return lambda x, w: qjax.dot_general(x, w, DOT, policy=policy, key=key, variables=Values())


def test_the_forward_product_is_of_integers_of_transformed_operands():
    (a, s), (b, t) = codes(X @ H), codes(H.T @ W)
    out = run(int4_transformer.policy(), jax.random.key(0))(X, W)
    np.testing.assert_allclose(out, (a @ b) * (s * t), rtol=2e-4, atol=2e-4)
    cold = run(int4_transformer.policy(learned=False), jax.random.key(0))(X, W)
    np.testing.assert_allclose(cold, out, rtol=1e-5, atol=1e-5)


def test_fewer_bits_than_an_outlier_needs_are_enough_behind_a_transform():
    x = X.at[:, :3].mul(40.0)

    def error(block):
        policy = int4_transformer.policy(block=block, learned=False)
        out = run(policy, jax.random.key(0))(x, W)
        return float(jnp.sum((out - x @ W) ** 2) / jnp.sum((x @ W) ** 2))

    assert error(64) < error(16) < error(1)


def test_the_mean_of_both_gradients_is_that_of_the_integers_masked_and_brought_back():
    policy = int4_transformer.policy(learned=False)
    (a, s), (b, t) = codes(X @ H), codes(H.T @ W)
    inside = [np.abs(v / initial_step(v)) <= 7 for v in (X @ H, H.T @ W)]
    expected = [
        np.where(inside[0], G @ (b * t).T, 0) @ H.T,
        H @ np.where(inside[1], (a * s).T @ np.asarray(G), 0),
    ]

    @jax.jit
    def draw(key):
        return jax.vjp(run(policy, key), X, W)[1](G)

    draws = jax.lax.map(draw, jax.random.split(jax.random.key(5), 600))
    for found, want in zip(draws, expected, strict=True):
        found = np.asarray(found, np.float64)
        deviation = found.std(0) / np.sqrt(len(found))
        assert np.mean(((found.mean(0) - want) / deviation) ** 2) < 1.2


def test_a_gradient_in_two_parts_loses_little_and_drawing_adds_the_published_variance():
    """Log-normal rows: one part of four bits, both parts, and both with as many rows drawn.

    The error of drawing is that of both parts, and besides the variance of proposition 4.1.
    """
    rng = np.random.default_rng(0)
    g = jnp.asarray(rng.normal(size=(512, 32)) * rng.lognormal(0, 1, (512, 1)), jnp.float32)
    x = jnp.asarray(rng.normal(size=(512, 64)), jnp.float32)
    leg = int4_transformer.policy().drhs
    legs = [
        qjax.Gemm(None, leg.rhs.high),
        qjax.Gemm(None, leg.rhs),
        qjax.Gemm(None, leg.rhs, sampling=leg.sampling),
    ]
    w, exact = jnp.zeros((64, 32)), np.asarray(x.T @ g, np.float64)

    def error(leg, key):
        policy = Policy(drhs=leg)
        f = lambda w: qjax.dot_general(x, w, DOT, policy=policy, key=key)  # noqa: E731
        return jnp.sum((jax.vjp(f, w)[1](g)[0] - exact) ** 2)

    keys = jax.random.split(jax.random.key(1), 40)
    found = [np.asarray(jax.jit(jax.vmap(lambda k, g=g: error(g, k)))(keys)) for g in legs]
    naive, both, drawn = (values.mean() for values in found)
    parts = leg.rhs.parts(g, contract=(0,), key=keys[0])
    norms = [np.linalg.norm(np.asarray(p, np.float64), axis=1) for p in (x, *parts)]
    squares = np.concatenate([(norms[0] * n) ** 2 for n in norms[1:]])
    scores = np.sqrt(squares)
    # Half of the rows on average, in proportion to their scores, none more than surely.
    chance = np.zeros(len(scores))
    for _ in range(50):
        free = chance < 1
        chance[free] = scores[free] / scores[free].sum() * (512 - np.sum(~free))
        chance = np.minimum(chance, 1)
    kept = chance > 0
    variance = np.sum((1 - chance[kept]) / chance[kept] * squares[kept])
    assert drawn == pytest.approx(both + variance, rel=0.1)
    assert both < 0.1 * naive
    assert both < drawn < naive


def test_steps_after_the_cold_start_are_those_of_the_weights_as_they_are_then():
    """Three sizes of steps: of first weights, of trained ones, and of others, set by hand."""
    cold, warm = (qjax.quantize(nn.Dense(24), recipe) for recipe in int4_transformer.stages())
    rngs = {"params": jax.random.key(0), "quant": jax.random.key(1)}
    trained = cold.init(rngs, X)
    assert "quant" not in trained["params"]
    trained["params"]["kernel"] *= 5
    for factor in (1.0, 0.3):
        trained["params"]["kernel"] *= factor
        trained = linen.refound(warm, trained, factor * X, rngs={"quant": jax.random.key(2)})
        steps = trained["params"]["quant"]
        sizes = {"fwd_lhs": factor * X @ H, "fwd_rhs": H.T @ trained["params"]["kernel"]}
        for side, values in sizes.items():
            assert float(steps[side]["step"]) == pytest.approx(initial_step(values), rel=1e-5)
    again = warm.apply(trained, X, rngs={"quant": jax.random.key(2)})
    assert np.all(np.isfinite(again))


def test_steps_learn_only_after_the_cold_start():
    cold, warm = int4_transformer.stages()
    assert not cold.default.fwd.lhs.learned
    assert warm.default == int4_transformer.policy()
    assert warm.default.fwd.transform == Hadamard(32)
    cold, warm = int4_transformer.stages(3, 16)
    assert cold.default == int4_transformer.policy(3, 16, learned=False)
    assert warm.default == int4_transformer.policy(3, 16)
    assert warm.default != int4_transformer.policy(3)
    assert cold.match("lm_head", "dot_general")[1].policy.is_identity
