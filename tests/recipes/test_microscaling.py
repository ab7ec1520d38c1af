"""MX training: the three products of a layer, as the paper specifies them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import Quantizer

TYPES = {
    "mxfp8": ("mxfp8", "mxfp8"),
    "mxfp8_e5m2": ("mxfp8", "mxfp8_e5m2"),
    "mxfp6_e3m2": ("mxfp6_e3m2", "mxfp6_e3m2"),
    "mxfp6_e2m3": ("mxfp6_e2m3", "mxfp6_e2m3"),
    "mxfp4_rne": ("mxfp4", "mxfp4"),
    "mxint8": ("mxint8", "mxint8"),
}


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_three_products_of_a_layer(name, dtype):
    """With `dtype` bfloat16 every operand and result is rounded to it, as the paper's are."""
    forward, gradient = (Quantizer(kind) for kind in TYPES[name])
    x = jax.random.normal(jax.random.key(0), (64, 32), dtype)
    w = jax.random.normal(jax.random.key(1), (32, 96), jnp.float32)
    g = jax.random.normal(jax.random.key(2), (64, 96), dtype)
    policy = qjax.recipes.get(name).using("reference")
    layer = qjax.quantize(nn.Dense(96, use_bias=False, dtype=dtype), policy)
    y, pull = jax.vjp(lambda w, x: layer.apply({"params": {"kernel": w}}, x), w, x)
    dw, dx = pull(g)

    def mx(quantizer, value, axis):
        return quantizer.cast(value.astype(dtype), contract=(axis,), dtype=jnp.float32)

    def product(a, b):
        return (a @ b).astype(dtype).astype(jnp.float32)

    # Blocks lie along what each product sums over: inputs, outputs, tokens.
    expected = (
        product(mx(forward, x, 1), mx(forward, w, 0)),
        product(mx(gradient, g, 1), mx(forward, w, 1).T),
        product(mx(forward, x, 0).T, mx(gradient, g, 0)),
    )
    for found, wanted in zip((y, dx, dw), expected, strict=True):
        tolerance = {"rtol": 1e-5, "atol": 1e-4} if dtype == jnp.float32 else {"rtol": 2**-7}
        np.testing.assert_allclose(np.float32(found), wanted, **tolerance)


def test_rounding_along_one_axis_and_the_other_differ():
    x = jax.random.normal(jax.random.key(0), (64, 64))
    both = [qjax.cast(x, "mxfp4", axis=axis) for axis in (0, 1)]
    assert not np.array_equal(*both)
    np.testing.assert_array_equal(qjax.cast(x.T, "mxfp4", axis=1).T, both[0])


@pytest.mark.parametrize("largest", [4.0, 6.5, 7.75])
def test_four_bit_gradients_are_unbiased_also_where_the_floor_rule_would_clip(largest):
    quantizer = qjax.recipes.get("mxfp4").default.dlhs.lhs
    tile = jnp.linspace(-1.0, 1.0, 32).at[5].set(largest)
    keys = jax.random.split(jax.random.key(0), 4096)
    drawn = np.asarray(jax.vmap(lambda key: quantizer.cast(tile, key=key))(keys), np.float64)
    error = drawn.std(0) / len(keys) ** 0.5
    assert np.all(np.abs(drawn.mean(0) - tile) <= 5 * error + 1e-6)
