"""Delayed scaling as a recipe: the published trace, saturation, and histories of both passes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import qjax
from qjax.recipes import fp8_delayed

# Transformer Engine's trace of a history of four: the largest magnitudes of seven steps, and the
# scales that they are multiplied by. Its first scale is 1, whatever comes.
MAXIMA = (1.0, 4.0, 2.0, 2.0, 2.0, 2.0, 2.0)
SCALES = (1.0, 448.0, 112.0, 112.0, 112.0, 112.0, 224.0)
ROW = np.linspace(-1, 1, 16, dtype=np.float32)
X = jnp.asarray(ROW[None])
LAYER = nn.Dense(16, use_bias=False)
PARAMS = {"params": {"kernel": jnp.eye(16)}}


def fp8(x, scale, dtype, top):
    """NumPy's answer: multiply, saturate, round to nearest even, divide."""
    units = np.clip(np.asarray(x) * np.float32(scale), -top, top).astype(dtype)
    return units.astype(np.float32) / np.float32(scale)


def test_a_linen_layer_follows_the_published_trace_after_its_first_step():
    model = qjax.quantize(LAYER, fp8_delayed.policy(length=4))
    quant = {"quant": model.init(jax.random.key(0), X)["quant"]}
    run = jax.jit(lambda quant, x: model.apply({**PARAMS, **quant}, x, mutable=["quant"]))
    seen = []
    for step, (largest, scale) in enumerate(zip(MAXIMA, SCALES)):
        # The documented difference: the first step is bounded by its own tensor.
        scale = 448.0 if step == 0 else scale
        x = largest * X
        out, quant = run(quant, x)
        # Scales are stored as their reciprocals: the same codes, the last bit of a float apart.
        np.testing.assert_allclose(out, fp8(x, scale, ml_dtypes.float8_e4m3fn, 448), rtol=2e-7)
        seen = [largest, *seen][:4]
        history = np.ravel(quant["quant"]["fwd_lhs"])
        np.testing.assert_array_equal(history, [*seen, *[0.0] * (4 - len(seen))])


def test_histories_of_incoming_gradients_come_back_as_gradients():
    model = qjax.quantize(LAYER, fp8_delayed.policy(length=4))
    variables = {**PARAMS, "quant": model.init(jax.random.key(0), X)["quant"]}

    @jax.jit
    def step(variables, g):
        def loss(params, quant, x):
            out, _ = model.apply({"params": params, "quant": quant}, x, mutable=["quant"])
            return jnp.sum(out * g)

        return jax.grad(loss, (0, 1, 2))(variables["params"], variables["quant"], X)

    past = 0.0
    for largest in (3.0, 24.0, 6.0):
        g = largest * X
        scale = 57344 / (past or largest)
        rounded = fp8(g, scale, ml_dtypes.float8_e5m2, 57344)
        grads, found, dx = step(variables, g)
        np.testing.assert_allclose(dx, rounded, rtol=1e-6)  # The kernel is the identity.
        x = fp8(X, 448, ml_dtypes.float8_e4m3fn, 448)  # Rounded once, for both passes.
        np.testing.assert_allclose(grads["kernel"], x.T @ rounded, rtol=1e-6)
        past = max(past, largest)
        states = {slot: found[slot] for slot in ("dlhs_lhs", "drhs_rhs")}
        assert [float(jnp.max(state)) for state in states.values()] == [past, past]
        variables = {**variables, "quant": {**variables["quant"], **states}}


def test_zeros_and_infinities_are_not_remembered_as_bounds():
    model = qjax.quantize(LAYER, fp8_delayed.policy(length=4))
    quant = {"quant": model.init(jax.random.key(0), X)["quant"]}
    for x in (0 * X, 2 * X, X.at[0, 0].set(jnp.inf), X):
        out, quant = model.apply({**PARAMS, **quant}, x, mutable=["quant"])
    np.testing.assert_allclose(out, fp8(X, 224, ml_dtypes.float8_e4m3fn, 448), rtol=2e-7)
    assert np.all(np.isfinite(np.ravel(quant["quant"]["fwd_lhs"])))


@pytest.mark.parametrize("slot", ["fwd_lhs", "fwd_rhs", "dlhs_lhs", "drhs_rhs"])
def test_the_registered_recipe_keeps_the_published_length(slot):
    model = qjax.quantize(LAYER, "fp8_delayed")
    quant = jax.eval_shape(model.init, jax.random.key(0), X)["quant"]
    assert quant[slot].shape == (1024, 1, 1)
    assert quant[slot].dtype == np.float32
