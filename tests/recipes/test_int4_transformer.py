"""HQ-LSS: integers in the Hadamard domain, learned steps, and drawn rows of split gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

import qjax
from qjax import Policy
from qjax.contraction import Hadamard
from qjax.contraction.variables import Values
from qjax.recipes import int4_transformer

DOT = (((1,), (0,)), ((), ()))
X, W, G = (
    jax.random.normal(jax.random.key(i), s) for i, s in enumerate(((48, 64), (64, 24), (48, 24)))
)
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


def test_a_gradient_in_two_parts_loses_what_eight_bits_lose_and_drawing_costs_little():
    """Log-normal rows: one part of four bits, both parts, and both with as many rows drawn."""
    rng = np.random.default_rng(0)
    g = jnp.asarray(rng.normal(size=(512, 32)) * rng.lognormal(0, 0.7, (512, 1)), jnp.float32)
    x = jnp.asarray(rng.normal(size=(512, 64)), jnp.float32)
    split = int4_transformer.policy().drhs.rhs
    drawn = int4_transformer.policy().drhs.sampling
    naive, both = split.high, qjax.Gemm(None, split)
    policies = [
        Policy(drhs=qjax.Gemm(None, naive)),
        Policy(drhs=both),
        Policy(drhs=qjax.Gemm(None, split, sampling=drawn)),
    ]
    w = jnp.zeros((64, 32))
    errors = []
    for policy in policies:
        f = lambda w, p=policy: qjax.dot_general(x, w, DOT, policy=p, key=jax.random.key(1))  # noqa: E731
        dw = jax.vjp(f, w)[1](g)[0]
        errors.append(float(jnp.linalg.norm(dw - x.T @ g) / jnp.linalg.norm(x.T @ g)))
    assert errors[1] < 0.3 * errors[0]
    assert errors[1] < errors[2] < errors[0]


def test_steps_learn_only_after_the_cold_start():
    cold, warm = int4_transformer.stages()
    assert not cold.default.fwd.lhs.learned
    assert warm.default == int4_transformer.policy()
    assert warm.default.fwd.transform == Hadamard(32)
    assert cold.match("lm_head", "dot_general")[1].policy.is_identity
