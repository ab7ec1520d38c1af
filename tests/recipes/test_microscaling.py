"""MX training: the three products of a layer, as the paper specifies them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import Quantizer
from qjax.quantizer import Shrunk
from qjax.recipes import microscaling
from qjax.rounding import Stochastic
from tests.draws import normal

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
    x = normal(0, (64, 32), dtype)
    w = normal(1, (32, 96), jnp.float32)
    g = normal(2, (64, 96), dtype)
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
    x = normal(0, (64, 64))
    both = [qjax.cast(x, "mxfp4", axis=axis) for axis in (0, 1)]
    assert not np.array_equal(*both)
    np.testing.assert_array_equal(qjax.cast(x.T, "mxfp4", axis=1).T, both[0])


@pytest.mark.parametrize("largest", [4.0, 6.5, 7.75])
def test_four_bit_gradients_are_unbiased_also_where_the_floor_rule_would_clip(largest):
    tile = jnp.linspace(-1.0, 1.0, 32).at[5].set(largest)
    keys = jax.random.split(jax.random.key(0), 4096)

    def off(quantizer):
        """How far the mean is from the tile, in standard errors."""
        drawn = np.asarray(jax.vmap(lambda key: quantizer.cast(tile, key=key))(keys), np.float64)
        error = drawn.std(0) / len(keys) ** 0.5
        return np.max(np.maximum(np.abs(drawn.mean(0) - tile) - 1e-6, 0) / (error + 1e-9))

    shrunk = qjax.recipes.get("mxfp4_rht").default.dlhs.lhs
    assert off(qjax.recipes.get("mxfp4").default.dlhs.lhs) < 5
    assert off(shrunk) < 5
    assert (off(shrunk.quantizer) > 5) == (largest > 6), "what the factor of 3/4 is for"


def test_gradients_alone_are_mixed_in_blocks_of_sixty_four():
    policy = qjax.recipes.get("mxfp4_rht").default
    assert policy.fwd.is_identity
    for leg in (policy.dlhs, policy.drhs):
        mixed = np.asarray(leg.transform.first(jnp.eye(192)[70:71]))
        assert np.flatnonzero(mixed[0]).tolist() == list(range(64, 128))
        assert np.allclose(np.abs(mixed[0, 64:128]), 1 / 8)
        assert type(leg.lhs).__name__ == type(leg.rhs).__name__ == "Shrunk"


def test_shrunk_elements_are_on_the_grid_of_the_authors_code():
    """3 x / 2**(e + 2) is rounded, e that of the floor rule, and the factor taken out."""
    x = normal(7, (50, 32)) * 3
    values = np.asarray(Shrunk(Quantizer("mxfp4")).cast(x))
    exponent = np.floor(np.log2(np.abs(np.asarray(x)).max(1, keepdims=True))) - 2
    units = np.asarray(x) * 0.75 / 2.0**exponent
    assert np.abs(units).max() < 6.0001
    wanted = np.asarray(qjax.cast(jnp.asarray(units), "e2m1fn"))
    assert np.allclose(values * 0.75 / 2.0**exponent, wanted, atol=1e-5)
    with pytest.raises(ValueError, match=r"largest magnitude and a factor in"):
        Shrunk(Quantizer("mxfp4"), 1.5)


def test_vector_operations_and_products_in_bfloat16_through_the_door_for_functions():
    """Against the same function with every operation rounded by hand, forward and backward."""
    low = lambda v: jax.lax.reduce_precision(v, 8, 7)  # noqa: E731
    x = low(normal(0, (8, 64)))
    w = low(normal(1, (64, 64)) / 8)
    g = normal(2, (8, 64))
    recipe = microscaling.in_bfloat16(qjax.recipes.get("mxfp8"))

    def block(w, x):
        mean = jnp.sum(x, axis=-1, keepdims=True) / 64
        return x + nn.relu(jnp.tanh((x - mean) @ w))

    def by_hand(w, x):
        mean = low(low(jnp.sum(x, axis=-1, keepdims=True)) / 64)
        y = qjax.dot_general(low(x - mean), w, (((1,), (0,)), ((), ())), policy=recipe.default)
        return low(x + low(nn.relu(low(jnp.tanh(y)))))

    function = qjax.quantize(block, recipe, weights=["w"], elementwise="bfloat16")
    value, back = jax.vjp(function, w, x)
    wanted, by = jax.vjp(by_hand, w, x)
    assert np.array_equal(value, wanted)
    assert not np.array_equal(value, qjax.quantize(block, recipe, weights=["w"])(w, x))
    for found, near in zip(back(g), by(g)):
        # Several gradients of one value are summed in another order.
        assert np.allclose(found, near, rtol=2**-6, atol=2**-6)
    kernel, _ = back(g)
    assert np.array_equal(kernel, low(kernel))
    with pytest.raises(ValueError, match=r"`elementwise` takes what rounds without noise"):
        qjax.quantize(block, recipe, elementwise=Quantizer("bfloat16", rounding=Stochastic()))
    with pytest.raises(TypeError, match="elementwise"):
        qjax.quantize(nn.Dense(3), recipe, elementwise="bfloat16")
