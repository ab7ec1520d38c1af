"""HDQT: integers in every product, in the Hadamard domain backward, clipped to eight bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import qjax
from qjax import Policy, recipes
from qjax.contraction import Hadamard, IntegerAccumulator, overflows
from qjax.formats import Int
from qjax.recipes import hdqt

DOT = (((1,), (0,)), ((), ()))
X, W, G = (
    jax.random.normal(jax.random.key(i), s) for i, s in enumerate(((16, 72), (72, 24), (16, 24)))
)


def codes(x, share=1.0):
    """Four-bit integers to nearest, and their step."""
    top = np.float32(share) * np.abs(x).max()
    step = top / np.float32(7)
    return np.clip(np.rint(np.asarray(x) / step), -7, 7), step


def test_the_forward_sum_is_clipped_tile_by_tile():
    """Positive numbers fill tiles of 32 beyond 127 at once."""
    for x, w in ((X, W), (2 + jnp.tanh(X), 2 + jnp.tanh(W))):
        (a, s), (b, t) = codes(x, 0.975), codes(w, 0.975)
        total = sum(np.clip(a[:, k : k + 32] @ b[k : k + 32], -127, 127) for k in range(0, 72, 32))
        out = qjax.dot_general(x, w, DOT, policy=Policy(hdqt.policy().fwd))
        np.testing.assert_allclose(out, total * s * t, rtol=1e-5)
    assert np.abs(a @ b).max() > 3 * 127


def test_activations_without_negative_values_may_fill_all_sixteen_levels():
    x = np.abs(X)
    (b, t), step = codes(W, 0.975), np.float32(0.975) * x.max() / np.float32(15)
    a = np.clip(np.rint(x / step), 0, 15)
    total = sum(np.clip(a[:, k : k + 32] @ b[k : k + 32], -127, 127) for k in range(0, 72, 32))
    policy = hdqt.policy(signed=False)
    out = qjax.dot_general(x, W, DOT, policy=Policy(policy.fwd))
    np.testing.assert_allclose(out, total * step * t, rtol=1e-5)
    assert policy.drhs == hdqt.policy().drhs, "in the Hadamard domain both signs occur again"


def test_no_layer_is_exempt():
    """As in the released code, which converts the classifier too."""
    recipe = recipes.get("hdqt")
    assert recipe.version == 2
    for path in ("conv_init", "layer_1", "classifier", "lm_head"):
        assert recipe.match(path, "dot_general")[1].policy == hdqt.policy()


def test_hadamard_matrices_cancel_in_integers():
    for p in (2, 8, 64):
        h = np.asarray(Hadamard(orthonormal=False).first(jnp.eye(p)))
        np.testing.assert_array_equal(h, scipy.linalg.hadamard(p))
        np.testing.assert_array_equal(h @ h, p * np.eye(p))


def test_the_mean_of_both_gradients_is_that_of_the_codes():
    """Noise is unbiased and accumulators of 16 bits do not clip; weights alone round to nearest."""
    policy = hdqt.policy(4, 16)
    x, w = (q * s for q, s in (codes(X, 0.975), codes(W, 0.975)))
    h = scipy.linalg.hadamard(8).astype(np.float32)
    blocks = scipy.linalg.block_diag(h, h, h)
    q, s = codes(w @ blocks)
    inside = [np.abs(v) <= 0.975 * np.abs(v).max() for v in (X, W)]
    expected = [
        np.where(inside[0], G @ (q * s @ blocks / 8).T, 0),
        np.where(inside[1], x.T @ np.asarray(G), 0),
    ]

    @jax.jit
    def draw(key):
        f = lambda x, w: qjax.dot_general(x, w, DOT, policy=policy, key=key)  # noqa: E731
        return jax.vjp(f, X, W)[1](G)

    draws = jax.lax.map(draw, jax.random.split(jax.random.key(5), 600))
    for found, want in zip(draws, expected, strict=True):
        found = np.asarray(found, np.float64)
        deviation = found.std(0) / np.sqrt(len(found))
        score = np.abs(found.mean(0) - want)[deviation > 0] / deviation[deviation > 0]
        assert np.mean(score**2) < 1.15, "a mean square of one is noise alone"
        np.testing.assert_array_equal(found.mean(0)[want == 0], 0)


def test_the_backward_sum_is_clipped_once():
    policy = hdqt.policy()
    assert policy.dlhs.accumulator.length is None
    assert policy.fwd.accumulator.length == 32
    x, w, g = jnp.ones((64, 2)), jnp.ones((2, 64)), jnp.ones((64, 64))
    # The largest weight and activation, which clip, are none of those looked at.
    x, w = x.at[0, 0].set(1.1), w.at[0, 0].set(1.1)
    f = lambda x, w: qjax.dot_general(x, w, DOT, policy=policy, key=jax.random.key(0))  # noqa: E731
    dx, dw = jax.vjp(f, x, w)[1](g)
    # All energy of constant rows is in one integer, which meets its like: 49 fits eight bits.
    step = 1.1 * 0.975 / 7
    np.testing.assert_allclose(dx[1:], 64 * step * np.rint(1 / step), rtol=1e-5)
    assert dx[0, 0] == 0
    np.testing.assert_allclose(dw[1], 64 * step * np.rint(1 / step), rtol=1e-5)


def test_small_rows_beside_a_spike_survive_in_the_hadamard_domain():
    """One sample a hundred times larger flushes nearly all others; spread, it does not."""
    g = jax.random.normal(jax.random.key(7), (64, 32)).at[3].mul(150.0)
    x = jax.random.normal(jax.random.key(8), (64, 16))
    quantizer = hdqt.policy().dlhs.rhs
    flushed = {
        transform: float(jnp.mean(values == 0))
        for transform, values in {
            False: quantizer.cast(g),
            True: quantizer.cast(Hadamard().first(g.T)),
        }.items()
    }
    assert flushed[False] > 0.9
    assert flushed[True] < 0.3
    assert x.shape[0] == g.shape[0]


@pytest.mark.parametrize(("tile", "share"), [(32, 0.226), (64, 0.38)])
def test_tiles_of_uniform_operands_saturate_as_often_as_counted(tile, share):
    """Two products of four bits fit eight; tiles of 32 rely on operands that are not all large."""
    accumulator = IntegerAccumulator(8, tile, at_end=True)
    assert accumulator.safe_length(Int(4), Int(4)) == 2
    draw = np.random.default_rng(tile)
    operands = [jnp.asarray(draw.integers(-7, 8, s)) for s in ((300, tile), (tile, 300))]
    assert float(jnp.mean(overflows(accumulator, *operands))) == pytest.approx(share, rel=0.05)
