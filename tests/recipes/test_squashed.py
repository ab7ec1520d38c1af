"""Squashed weights: few levels, all used; a second stage that leaves their integers alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qjax import gradients, recipes
from qjax.recipes import squashed
from tests.draws import normal

W = 0.07 * normal(0, (128, 128))


def weights(policy):
    return np.asarray(policy.fwd.rhs.apply(W, {}, (), contract=(0,), batch=(), key=None)[0])


def test_squashing_is_monotone_and_keeps_the_variance():
    x = np.sort(np.asarray(W).ravel())
    y = np.asarray(gradients.squash(jnp.asarray(x)))
    assert np.all(np.diff(y) >= 0)
    assert y.std() == pytest.approx(x.std(), rel=0.15)
    slope = jax.grad(lambda x: jnp.sum(gradients.squash(x)))(jnp.asarray(x))
    expected = 3**0.5 / np.cosh(x / np.sqrt(np.mean(x**2))) ** 2
    assert np.allclose(slope, expected, rtol=1e-3)
    assert jnp.all(gradients.squash(jnp.zeros(3)) == 0)


@pytest.mark.parametrize("bits", [3, 4, 5])
def test_few_levels_are_all_used(bits):
    made = weights(squashed.policy(bits))
    values, counts = np.unique(made.round(6), return_counts=True)
    assert len(values) == 2**bits - 1
    assert np.allclose(values, -values[::-1], atol=1e-6)
    share = counts / counts.sum()
    assert -np.sum(share * np.log2(share)) > 0.95 * np.log2(len(values))
    plain = np.round(np.asarray(W) / np.abs(np.asarray(W)).max() * (2 ** (bits - 1) - 1))
    share = np.unique(plain, return_counts=True)[1] / plain.size
    assert -np.sum(share * np.log2(share)) < 0.85 * np.log2(len(values))


def test_one_bit_is_the_sign_times_the_mean_magnitude():
    made = weights(squashed.policy(1))
    y = np.asarray(gradients.squash(W))
    assert np.allclose(made, np.where(y < 0, -1, 1) * np.abs(y).mean(), rtol=1e-5)


def test_the_second_stage_adds_inputs_and_leaves_weights():
    first, second = (recipes.get(name).default for name in ("squashed_w4", "squashed_w4a8"))
    assert first.fwd.lhs is None
    assert second.fwd.lhs.bits == 8
    assert np.array_equal(weights(first), weights(second))
