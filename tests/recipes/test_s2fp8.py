"""S2FP8: the map's two constraints, and what they keep of tensors that plain E5M2 loses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import recipes
from qjax.quantizer import ShiftSqueeze
from tests.draws import normal

X = jnp.exp(2 * normal(0, (8, 64))) * jnp.sign(normal(1, (8, 64)))
CAST = jax.jit(ShiftSqueeze().cast)


def test_powers_of_two_that_the_map_hits_come_back_exactly():
    x = jnp.array([1.0, 2.0, 4.0, 8.0])
    alpha, beta = ShiftSqueeze().statistics(x)
    assert (float(alpha), float(beta)) == (10.0, -15.0)
    for cast in (ShiftSqueeze().cast, CAST):
        assert cast(x).tolist() == x.tolist()


@pytest.mark.parametrize("factor", [1e-12, 1.0, 3e7])
def test_the_mean_logarithm_is_zero_and_the_largest_fifteen(factor):
    x = jnp.concatenate([(X * factor).ravel(), jnp.zeros(100)])
    alpha, beta = ShiftSqueeze().statistics(x)
    logs = np.log2(np.abs(np.float64(x[x != 0])))
    mapped = float(alpha) * logs + float(beta)
    assert mapped.mean() == pytest.approx(0, abs=2e-5 * abs(float(beta)) + 1e-4)
    assert mapped.max() == pytest.approx(15, abs=2e-5 * abs(float(beta)) + 1e-4)


def test_scaling_a_tensor_scales_what_comes_back():
    # By a power of two that float32 logarithms carry exactly enough not to move a rounding.
    near = np.isclose(CAST(X * 2.0**-20) * 2.0**20, CAST(X), rtol=1e-4)
    assert near.mean() > 0.99


def test_order_signs_and_zeros_are_kept():
    x = jnp.sort(X.ravel())
    values = np.asarray(CAST(x))
    assert np.all(np.diff(values) >= 0)
    assert np.all(np.sign(values) * np.sign(x) >= 0)
    assert CAST(jnp.array([0.0, 5.0, 0.5, 0.0]))[0] == 0
    assert CAST(jnp.full(7, -3.0)).tolist() == pytest.approx([-3.0] * 7)
    assert CAST(jnp.zeros((2, 2))).tolist() == [[0, 0], [0, 0]]


def test_small_tensors_keep_what_plain_e5m2_flushes():
    x = jnp.exp(2 * normal(2, (20000,))) * 1e-6
    flushed = float(jnp.mean(CAST(x) == 0)), float(jnp.mean(qjax.cast(x, "e5m2") == 0))
    assert flushed[0] < 0.01
    assert flushed[1] > 0.8
    error = jnp.median(jnp.abs(CAST(x) / x - 1))
    assert float(error) < 0.05


def test_all_operands_and_results_of_all_layers_are_squeezed():
    policy = recipes.get("s2fp8").default
    assert all(q == ShiftSqueeze() for q in policy.quantizers().values())
    assert recipes.get("s2fp8").match("lm_head", "dot_general")[1].policy == policy
    w = 1e-9 * normal(3, (64, 16))
    numbers = (((1,), (0,)), ((), ()))
    cast, g = ShiftSqueeze().cast, normal(4, (8, 16))
    out, back = jax.vjp(lambda x, w: qjax.dot_general(x, w, numbers, policy=policy), X, w)
    # Powers of a compiled leg and of single operations differ in last places; neighbouring
    # numbers of the format differ by far more.
    assert np.allclose(out, cast(cast(X) @ cast(w)), rtol=1e-4)
    for found, exact in zip(back(g), (cast(g) @ cast(w).T, cast(X).T @ cast(g))):
        assert np.allclose(found, cast(exact), rtol=1e-4), "gradients of activations and weights"
    # Products on stored codes do not exist for a map that is not linear: all are emulated.
    fast = recipes.get("s2fp8").using("xla").default
    assert np.array_equal(qjax.dot_general(X, w, numbers, policy=fast), out)


def test_stochastic_rounding_needs_a_key_and_draws():
    from qjax.rounding import Stochastic

    noisy = ShiftSqueeze(rounding=Stochastic())
    assert noisy.stochastic
    with pytest.raises(ValueError, match="key"):
        noisy.cast(X)
    assert not np.array_equal(noisy.cast(X, key=jax.random.key(0)), CAST(X))
