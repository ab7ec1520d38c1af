"""Operands in two parts, and terms drawn so that the mean is the whole product."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import Gemm, Policy, Quantizer
from qjax.contraction import BitSplit, LeverageSampling
from qjax.contraction.axes import Paired
from qjax.contraction.sampling import probabilities

INT4 = Quantizer(qjax.QType("int4", qjax.Tile(), "float32"))
DOT = (((1,), (0,)), ((), ()))
AXES = Paired((0,), (0,))  # x[n, d], g[n, c]: rows are contracted, as in the gradient of a weight.


def rows(seed, n, width):
    """Rows whose norms are log-normal, as those of gradients are."""
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(n, width)) * rng.lognormal(0, 1, (n, 1)), jnp.float32)


def test_the_low_part_is_what_the_high_part_left():
    x = rows(0, 16, 8)
    high, low = BitSplit(INT4, INT4).parts(x)
    np.testing.assert_array_equal(high, INT4.cast(x))
    np.testing.assert_array_equal(low, INT4.cast(x - high))
    step = np.abs(x - high).max() / 7
    assert np.abs(x - high - low).max() <= step / 2 * (1 + 1e-6)


@pytest.mark.parametrize("expected", [1, 4, 15.5, 16, 20])
def test_probabilities_sum_to_what_is_asked_and_stay_in_proportion(expected):
    scores = jnp.asarray(np.random.default_rng(1).lognormal(0, 2, 16), jnp.float32).at[3].set(0)
    chance = np.asarray(probabilities(scores, expected))
    assert chance.min() >= 0
    assert chance.max() <= 1
    np.testing.assert_allclose(chance.sum(), min(expected, 15), rtol=1e-5)
    free = (chance < 1) & (chance > 0)
    ratio = chance[free] / np.asarray(scores)[free]
    np.testing.assert_allclose(ratio, ratio[:1].repeat(len(ratio)), rtol=1e-5)
    # Whatever is certain would not have had less in proportion.
    if free.any():
        assert np.all(np.asarray(scores)[chance == 1] * ratio[0] >= 1 - 1e-5)


def test_equal_scores_that_fill_the_sum_are_certain():
    np.testing.assert_array_equal(probabilities(jnp.ones(5), 5), 1)
    np.testing.assert_allclose(probabilities(jnp.ones(5), 2), 0.4)
    np.testing.assert_array_equal(probabilities(jnp.zeros(5), 2), 0)


def test_the_mean_of_the_draws_is_the_product_and_their_variance_is_the_published_one():
    x, g = rows(2, 64, 6), rows(3, 64, 5)
    parts = BitSplit(INT4, INT4).parts(g)
    rule, draws = LeverageSampling(share=1.0), 2000

    @jax.jit
    def draw(key):
        a, b = rule((x,), parts, AXES, key)
        return a.T @ b

    found = np.asarray(jax.vmap(draw)(jax.random.split(jax.random.key(0), draws)), np.float64)
    norms = [np.linalg.norm(np.asarray(p, np.float64), axis=1) for p in (x, *parts)]
    squares = np.concatenate([(norms[0] * n) ** 2 for n in norms[1:]])
    chance = np.asarray(probabilities(jnp.sqrt(jnp.asarray(squares, jnp.float32)), 64.0))
    kept = chance > 0
    variance = np.sum((1 - chance[kept]) / chance[kept] * squares[kept])
    exact = np.asarray(x.T @ (parts[0] + parts[1]), np.float64)
    error = np.sum((found.mean(0) - exact) ** 2)
    assert error < 4 * variance / draws
    spread = np.sum((found - exact) ** 2, axis=(1, 2))
    assert abs(spread.mean() - variance) < 5 * spread.std() / np.sqrt(draws)


def test_rows_are_drawn_whole():
    g, w = rows(4, 32, 6), rows(5, 6, 3)
    a, b = LeverageSampling("lhs", 0.5)((g,), (w,), Paired((1,), (0,)), jax.random.key(0))
    np.testing.assert_array_equal(b, w)
    chance = probabilities(jnp.linalg.norm(g, axis=1), 16.0)
    drawn = np.any(np.asarray(a) != 0, axis=1)
    assert 8 < drawn.sum() < 24
    np.testing.assert_allclose(a[drawn], (g / chance[:, None])[drawn], rtol=1e-5)
    swapped, _ = LeverageSampling("rhs", 0.5).flipped()(
        (g,), (w,), Paired((1,), (0,)), jax.random.key(0)
    )
    np.testing.assert_array_equal(a, swapped)


def test_every_matrix_of_a_batch_draws_its_own_terms():
    x, g = rows(6, 3 * 16, 4).reshape(3, 16, 4), rows(7, 3 * 16, 5).reshape(3, 16, 5)
    axes = Paired((1,), (1,), (0,), (0,))
    a, _ = LeverageSampling(share=0.5)((x,), (g,), axes, jax.random.key(1))
    scores = jnp.linalg.norm(x, axis=2) * jnp.linalg.norm(g, axis=2)
    chance = jax.vmap(lambda s: probabilities(s, 8.0))(scores)
    weights = np.asarray(a / x)
    for b in range(3):
        for n in range(16):
            weight = weights[b, n, 0]
            assert weight == 0 or np.isclose(weight, 1 / chance[b, n], rtol=1e-5)
    assert not np.array_equal(weights[0] == 0, weights[1] == 0)


def test_a_policy_draws_only_where_it_says_and_needs_a_key():
    x, w = rows(8, 16, 8), rows(9, 8, 4)
    policy = Policy(drhs=Gemm(None, BitSplit(INT4, INT4), sampling=LeverageSampling(share=0.5)))
    assert policy.stochastic

    def both(key):
        function = lambda x, w: qjax.dot_general(x, w, DOT, policy=policy, key=key)  # noqa: E731
        out, pull = jax.vjp(function, x, w)
        return out, *pull(out)

    first, second = both(jax.random.key(0)), both(jax.random.key(1))
    np.testing.assert_array_equal(first[1], second[1])
    assert not np.array_equal(first[2], second[2])
    with pytest.raises(ValueError, match="no key came"):
        both(None)


def test_two_split_operands_are_refused():
    split = BitSplit(INT4, INT4)
    policy = Policy(Gemm(split, split, sampling=LeverageSampling()))
    with pytest.raises(ValueError, match="not both split"):
        qjax.dot_general(
            jnp.ones((2, 3)), jnp.ones((3, 2)), DOT, policy=policy, key=jax.random.key(0)
        )
