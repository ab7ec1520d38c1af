"""The order in which an einsum was written decides which operand a policy calls the first."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import Gemm, Policy, Quantizer
from qjax.recipes.noise import at
from qjax.rounding import Stochastic
from tests.draws import normal

# The two operands, and their gradients, are rounded differently, and with noise.
NOISY = Quantizer("int4_channel", rounding=Stochastic())
POLICY = Policy(Gemm("int4_channel", NOISY), Gemm(NOISY, "int8_channel"), Gemm("mxfp4", NOISY))
SPECS = [
    ("bqhd,bkhd->bhqk", (2, 5, 3, 4), (2, 6, 3, 4)),
    ("bhqk,bkhd->bqhd", (2, 3, 5, 6), (2, 6, 3, 4)),
    ("...qk, ...kd -> ...dq", (2, 5, 6), (2, 6, 4)),
    ("ab,bc->ca", (4, 5), (5, 3)),
    ("ab,ab->ab", (4, 5), (4, 5)),
    ("ab,ab->a", (4, 5), (4, 5)),
]


@pytest.mark.parametrize(
    ("spec", "left", "right", "mapped"), [*((*s, False) for s in SPECS), (*SPECS[1], True)]
)
def test_a_rewritten_einsum_is_the_quantized_one(spec, left, right, mapped):
    x, y = (normal(n, s) for n, s in enumerate((left, right)))
    key = jax.random.key(2)
    place = at(key, "")  # The first one.
    f = lambda x, y: jnp.einsum(spec, x, y)  # noqa: E731
    own = lambda x, y: qjax.einsum(spec, x, y, policy=POLICY, key=place)  # noqa: E731
    if mapped:
        # Over an axis of size 1, so that noise of the same shape is drawn either way.
        f, x, y = jax.vmap(f), x[None], y[None]
        own = lambda x, y, own=own: own(x[0], y[0])[None]  # noqa: E731
    rewritten = qjax.quantize(f, POLICY)
    run = lambda g, **k: jax.value_and_grad(lambda x, y: jnp.cos(g(x, y, **k)).sum(), (0, 1))(x, y)  # noqa: E731
    for got, expected in zip(
        jax.tree.leaves(run(rewritten, quant_key=key)), jax.tree.leaves(run(own)), strict=True
    ):
        np.testing.assert_array_equal(got, expected)


def test_a_weight_on_the_left_is_what_a_policy_calls_the_second():
    w, x = jnp.linspace(-1, 1, 12).reshape(3, 4), normal(1, (4, 5))
    policy = Policy(Gemm("int4_channel", "mxfp8"), Gemm("mxfp4", "mxint8"), Gemm("e4m3fn", "e5m2"))
    left = qjax.quantize(lambda w, x: w @ x, policy, weights=["w"])
    right = lambda w, x: qjax.dot_general(x.T, w.T, (((1,), (0,)), ((), ())), policy=policy).T  # noqa: E731
    run = lambda f: jax.value_and_grad(lambda w, x: jnp.cos(f(w, x)).sum(), (0, 1))(w, x)  # noqa: E731
    for got, expected in zip(jax.tree.leaves(run(left)), jax.tree.leaves(run(right)), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
