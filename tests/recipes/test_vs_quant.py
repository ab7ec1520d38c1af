"""VS-Quant: the numbers of its formulas, integer arithmetic, and weights packed after training."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import Quantizer
from qjax.recipes.vs_quant import per_vector, recipe
from tests.draws import normal

KEY = jax.random.key(0)


def test_the_worked_example():
    rows = jnp.array([[0.7, -0.2, 0.052, 0.31], [0.07, 0.01, -0.02, 0.05]])
    tensor = Quantizer(per_vector(4, 4, channels=False, vector=4)).encode(rows)
    np.testing.assert_allclose(tensor.scale.scale.decode(), [[0.1 / 15]], rtol=1e-6)
    np.testing.assert_array_equal(tensor.scale.qtype.format.load(tensor.scale.qvalue), [[15], [2]])
    codes = tensor.qtype.format.load(tensor.qvalue)
    np.testing.assert_array_equal(codes, [[7, -2, 1, 3], [5, 1, -2, 4]])


def test_a_small_vector_is_not_lost_to_a_scale_of_zero():
    x = jnp.array([8.0, 1, 2, 3, 0.04, 0, 0, 0, 0, 0, 0, 0])
    tensor = Quantizer(per_vector(8, 4, channels=True, vector=4)).encode(x)
    np.testing.assert_array_equal(tensor.scale.qtype.format.load(tensor.scale.qvalue), [15, 1, 0])
    assert tensor.decode()[4] != 0
    np.testing.assert_array_equal(tensor.decode()[5:], 0)


def test_the_product_is_one_of_integers():
    chosen = recipe(4, 4, 4, 4).default
    x, w = normal(0, (3, 48)), normal(1, (48, 5))
    a, b = chosen.fwd.lhs.encode(x, contract=(1,)), chosen.fwd.rhs.encode(w, contract=(0,))

    def integers(tensor):
        return np.asarray(tensor.qtype.format.load(tensor.qvalue)).astype(np.int64)

    qa, qb = integers(a).reshape(3, 3, 16), integers(b).reshape(3, 16, 5)
    sums = np.einsum("bvk,vkn->bvn", qa, qb)
    whole = np.einsum("bvn,bv,vn->bn", sums, integers(a.scale), integers(b.scale))
    steps = np.float64(a.scale.scale.decode()) * np.float64(b.scale.scale.decode())
    product = qjax.dot_general(x, w, (((1,), (0,)), ((), ())), policy=chosen)
    np.testing.assert_allclose(product, whole * steps, rtol=1e-5)


def test_weights_have_a_float_for_every_channel_and_activations_one_for_all():
    fwd = qjax.recipes.get("vs_quant").default.fwd
    x, w = jnp.ones((6, 32)), jnp.ones((32, 5))
    inputs, weights = fwd.lhs.encode(x).scale, fwd.rhs.encode(w, contract=(0,)).scale
    assert (inputs.shape, inputs.scale.shape) == ((6, 2), (1, 1))
    assert (weights.shape, weights.scale.shape) == ((2, 5), (1, 5))


def test_errors_order_by_granularity_and_by_bits_of_the_scale():
    spread = jnp.repeat(jnp.exp(normal(2, (16, 64))), 16, axis=1)
    x = normal(0, (16, 1024)) * spread

    def error(kind):
        return float(jnp.sum((qjax.cast(x, kind) - x) ** 2) / jnp.sum(x**2))

    int4 = qjax.formats.Int(4)
    float_scale = qjax.qtypes.FLOAT32_SCALE
    coarse = [qjax.QType(int4, qjax.Tile(n, m), float_scale) for n, m in ((None, None), (None, 1))]
    fine = [qjax.QType(int4, qjax.Tile(n, 1), float_scale) for n in (64, 16)]
    errors = [error(kind) for kind in (*coarse, *fine)]
    assert errors == sorted(errors, reverse=True)
    bits = [error(per_vector(4, m, channels=True)) for m in (3, 4, 6, 10)]
    assert bits == sorted(bits, reverse=True)
    assert bits[-1] == pytest.approx(errors[-1], rel=0.01)


def test_bits_are_those_of_the_paper():
    assert per_vector(4, 4, channels=True).bits_per_element == 4.25
    w4a8 = qjax.recipes.get("vs_quant_w4a8").default.fwd
    assert (w4a8.lhs.qtype.format.bits, w4a8.rhs.qtype.format.bits) == (8, 4)
    assert (w4a8.lhs.qtype.scale.format.bits, w4a8.rhs.qtype.scale.format.bits) == (10, 6)


class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(8)(nn.relu(nn.Dense(32)(x)))


def test_after_training_weights_are_packed_and_activations_fixed():
    model, x = Model(), normal(0, (8, 48))
    variables = model.init(KEY, x)
    static = qjax.capture(model, variables, [x]).static(recipe())
    packed = qjax.pack(variables, static, model=model, inputs=(x,))
    quantized = jax.jit(qjax.quantize(model, static).apply)
    np.testing.assert_array_equal(quantized(variables, x), quantized(packed, x))


def test_gradients_pass_straight_through():
    model, x = nn.Dense(8, use_bias=False), normal(0, (4, 48))
    variables = model.init(KEY, x)
    quantized = qjax.quantize(model, recipe())
    gradient = jax.grad(lambda v: jnp.sum(quantized.apply(v, x)))(variables)
    plain = jax.grad(lambda v: jnp.sum(model.apply(v, x)))(variables)
    jax.tree.map(np.testing.assert_array_equal, gradient, plain)
