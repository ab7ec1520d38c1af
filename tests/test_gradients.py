"""Estimators: forward values are the cast's, derivatives are the published ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qjax import casting, formats, gradients
from qjax.formats import Int


def cast(x):
    return casting.cast(x, formats.INT4)


X = jnp.array([-9.0, -3.3, -0.4, 0.2, 2.6, 7.4, 12.0])
CASTS = {
    "straight_through": gradients.straight_through(cast),
    "clipped": gradients.clipped(cast, -7.0, 7.0),
    "tanh": gradients.tanh_surrogate(cast),
    "dsq": gradients.dsq(cast, 1.0),
    "ewgs": gradients.ewgs(cast, 0.1),
}
BOTH_MODES = {name: CASTS[name] for name in CASTS if name != "ewgs"}  # It looks at cotangents.
BOTH_MODES["lsq"] = lambda step: gradients.lsq(X, step, low=-4, high=3)


@pytest.mark.parametrize("name", CASTS)
def test_values_are_those_of_the_cast(name):
    assert jnp.array_equal(CASTS[name](X), cast(X))


def slope(function, x=X):
    return jax.grad(lambda x: function(x).sum())(x)


def test_slopes_are_the_published_ones():
    assert slope(CASTS["straight_through"]).tolist() == [1] * 7
    assert slope(CASTS["clipped"]).tolist() == [0, 1, 1, 1, 1, 0, 0]
    assert np.allclose(slope(CASTS["tanh"]), 1 / np.cosh(np.asarray(X)) ** 2, atol=1e-6)
    expected = 1 + 0.1 * (X - cast(X))
    assert np.allclose(slope(CASTS["ewgs"]), expected)


@pytest.mark.parametrize("name", BOTH_MODES)
def test_forward_mode_agrees_with_reverse_mode(name):
    x = jnp.full_like(X, 0.7) if name == "lsq" else X  # One step for each value.
    _, tangent = jax.jvp(BOTH_MODES[name], (x,), (jnp.ones_like(x),))
    assert np.allclose(tangent, slope(BOTH_MODES[name], x))


def test_the_soft_slope_integrates_to_one_step():
    x = jnp.linspace(0, 1, 20001)[:-1]
    slopes = slope(gradients.dsq(cast, 1.0, 7.0), x)
    assert float(slopes.mean()) == pytest.approx(1.0, abs=1e-3)
    assert float(slopes[10000]) > 3 > float(slopes[0])


def test_learned_steps_have_the_gradient_of_the_paper():
    x, step = jnp.array([0.3, -0.6, 5.0, -5.0]), jnp.float32(0.5)
    value, (gx, gs) = jax.value_and_grad(
        lambda x, s: gradients.lsq(x, s, low=-4, high=3).sum(), (0, 1)
    )(x, step)
    assert float(value) == pytest.approx(0.5 - 0.5 + 1.5 - 2.0)
    assert gx.tolist() == [1, 1, 0, 0]
    expected = ((1 - 0.6) + (-1 + 1.2) + 3 - 4) / np.sqrt(4 * 3)
    assert float(gs) == pytest.approx(expected, rel=1e-5)


def test_learned_offsets_move_the_range():
    x = jnp.array([1.4, 2.2, 9.0])

    def total(offset):
        return gradients.lsq_plus(x, jnp.float32(1.0), offset, low=0, high=3).sum()

    assert float(total(jnp.float32(1.0))) == 0 + 1 + 1 + 1 + 3 + 1
    assert float(jax.grad(total)(jnp.float32(1.0))) == pytest.approx(1 / 3)


def test_pact_passes_its_gradient_to_the_bound_where_clipped():
    x, bound = jnp.array([-1.0, 0.4, 3.0]), jnp.float32(2.0)
    gx, gb = jax.grad(lambda x, b: gradients.pact(x, b, 2).sum(), (0, 1))(x, bound)
    assert gx.tolist() == [0, 1, 0]
    assert float(gb) == 1.0
    assert np.allclose(gradients.pact(x, bound, 2), [0, 2 / 3, 2.0])


def test_learned_bits_interpolate_and_their_gradient_is_the_difference():
    x = jnp.linspace(-1, 1, 33)
    two, three = (
        gradients.learned_bits(x, jnp.float32(2)),
        gradients.learned_bits(x, jnp.float32(3)),
    )
    half = gradients.learned_bits(x, jnp.float32(2.5))
    assert np.allclose(half, (two + three) / 2, atol=1e-6)
    assert len(np.unique(np.asarray(two).round(5))) == 4
    weights = jnp.arange(33.0)
    slope = jax.grad(lambda b: (weights * gradients.learned_bits(x, b)).sum())(jnp.float32(2.5))
    assert float(slope) == pytest.approx(float((weights * (three - two)).sum()), rel=1e-4)


def test_the_binary_point_learns_to_hold_the_largest_value():
    x = jnp.array([5.3, -2.2, 0.7])

    def loss(n):
        return ((gradients.learned_point(x, n, bits=6) - x) ** 2).sum()

    start = jnp.float32(1.0)
    assert float(jax.grad(loss)(start)) < 0
    assert float(loss(jnp.float32(3.0))) < float(loss(start))
    assert gradients.learned_point(x, jnp.float32(3.2), bits=6).tolist() == [5.25, -2.25, 0.75]


def test_periodic_binary_weights_follow_the_sine():
    x = jnp.array([0.01, -0.01, 0.2])
    assert gradients.biper(x).tolist() == [1, -1, -1]
    expected = 20 * np.cos(20 * np.asarray(x))
    assert np.allclose(slope(gradients.biper, x), expected, rtol=1e-5)


def test_scales_receive_their_gradient():
    x, scale = jnp.array([0.6, 2.9, 40.0]), jnp.float32(2.0)

    def small(u):
        return casting.cast(u, Int(4))

    gx, gs = jax.grad(lambda x, s: gradients.scale_gradient(x, s, small).sum(), (0, 1))(x, scale)
    assert gx.tolist() == [1, 1, 0]
    assert float(gs) == pytest.approx((0 - 0.3) + (1 - 1.45) + 7)
