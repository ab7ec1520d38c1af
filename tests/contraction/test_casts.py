"""Casts of operands: what the quantizer itself gives, and made once where products share them."""

import re

import chex
import jax
import jax.numpy as jnp
import pytest

import qjax
from qjax.contraction import casts
from qjax.contraction.axes import OperandAxes
from tests.draws import normal

X = normal(0, (64, 128))
W = [normal(n, (128, 96)) for n in (1, 2, 3)]
ON_CPU = pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere casts are fused")


def test_a_cast_of_an_operand_is_the_quantizers_also_where_its_bits_are_traced():
    axes = OperandAxes((0,), ())

    @jax.jit
    def traced(x, mantissa_bits):
        quantizer = qjax.Quantizer(qjax.formats.Float(4, mantissa_bits))
        return casts.values(quantizer, x, axes, None, jnp.bfloat16)

    wanted = qjax.Quantizer("float8_e4m3").cast(X, contract=(0,), dtype=jnp.bfloat16)
    chex.assert_trees_all_equal(traced(X, jnp.int32(3)), wanted)
    quantizer = qjax.Quantizer("int8_channel")
    wanted = quantizer.units(X, contract=(0,), dtype=jnp.int8)
    chex.assert_trees_all_equal(casts.units(quantizer, X, axes, None, jnp.int8), wanted)


def made(f, *args) -> int:
    """How many casts of operands a compiled function makes."""
    text = jax.jit(f).lower(*args).compile().as_text()
    return len(re.findall(r" call\(.*to_apply=%\S*_cast_here", text))


@ON_CPU
@pytest.mark.parametrize("name", ["int8_channel", "mxfp8"])
def test_products_share_the_casts_of_their_common_operand(name):
    policy = qjax.Policy.all(qjax.Quantizer(name))

    def three(x, weights):
        return sum(qjax.matmul(x, w, policy=policy) for w in weights)

    assert made(three, X, W) == 1 + 3
    # Backwards: the gradient along both of its axes, weights along the other, and `x`.
    assert made(jax.grad(lambda *a: three(*a).sum(), (0, 1)), X, W) == 2 + 3 + 1


@ON_CPU
def test_noise_is_not_shared():
    policy = qjax.Policy.all(qjax.Quantizer("int8_channel", rounding=qjax.rounding.Stochastic()))

    def two(x, weights, key):
        keys = jax.random.split(key)
        return sum(qjax.matmul(x, w, policy=policy, key=k) for w, k in zip(weights, keys))

    assert made(two, X, W[:2], jax.random.key(0)) == 2 + 2
