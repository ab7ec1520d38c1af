"""One model through all three doors computes the same bits, also where it rounds with noise.

Nothing is compiled as a whole: compilers fuse differently what differs in names alone.
"""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import qjax
from qjax import Gemm, Policy, Quantizer
from qjax.rounding import Stochastic
from tests import draws
from tests.draws import normal

X = normal(0, (2, 5, 32))
KEY = jax.random.key(7)
NOISY = Quantizer("mxfp4", rounding=Stochastic(), scale="floor")
POLICIES = {
    "deterministic": Policy.all(Quantizer("mxfp8")),
    # Noise in the forward pass and in both gradients.
    "stochastic": Policy(Gemm(NOISY, "mxfp4"), Gemm(NOISY, "mxfp8"), Gemm("mxfp8", NOISY)),
}


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        up = nn.Dense(32, name="up")
        x = up(nn.relu(up(x)))  # One layer, called twice.
        x = nn.Einsum((32, 32), "...d,df->...f", name="down")(x)
        x = nn.Conv(32, (3,), name="conv")(x)
        return nn.MultiHeadDotProductAttention(2, name="attn")(x)


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.up = nnx.Linear(32, 32, rngs=rngs)
        self.down = nnx.Einsum("...d,df->...f", (32, 32), (32,), rngs=rngs)
        self.conv = nnx.Conv(32, 32, (3,), rngs=rngs)
        self.attn = nnx.MultiHeadAttention(2, 32, decode=False, rngs=rngs)

    def __call__(self, x):
        x = self.up(nnx.relu(self.up(x)))
        return self.attn(self.conv(self.down(x)))


def by_hand(params, x):
    """The same, on arrays alone; names say where everything stands."""

    def dense(name, x, axes=1):
        layer = params[name] if name in params else params["attn"][name]
        scope = name if name in params else f"attn/{name}"
        kept = tuple(range(x.ndim - axes, x.ndim))
        with jax.named_scope(scope):
            y = jax.lax.dot_general(x, layer["kernel"], ((kept, tuple(range(axes))), ((), ())))
        return y + layer["bias"]

    x = dense("up", nn.relu(dense("up", x)))
    with jax.named_scope("down"):
        x = jnp.einsum("...d,df->...f", x, params["down"]["kernel"]) + params["down"]["bias"]
    with jax.named_scope("conv"):
        numbers = jax.lax.ConvDimensionNumbers((0, 2, 1), (2, 1, 0), (0, 2, 1))
        kernel = params["conv"]["kernel"]
        x = jax.lax.conv_general_dilated(x, kernel, (1,), "SAME", dimension_numbers=numbers)
        x = x + params["conv"]["bias"]
    query, key, value = (dense(name, x) for name in ("query", "key", "value"))
    query = query / jnp.sqrt(query.shape[-1]).astype(query.dtype)
    with jax.named_scope("attn/qk"):
        weights = jnp.einsum("...qhd,...khd->...hqk", query, key)
    with jax.named_scope("attn/av"):
        x = jnp.einsum("...hqk,...khd->...qhd", jax.nn.softmax(weights), value)
    return dense("out", x, axes=2)


def loss(y):
    return jnp.cos(y).sum()


VARIABLES = draws.variables(Linen(), X)


def through_linen(policy):
    model, rngs = qjax.quantize(Linen(), policy), {"quant": KEY}
    return jax.value_and_grad(lambda v: loss(model.apply(v, X, rngs=rngs)))(VARIABLES)


def through_nnx(policy):
    module = draws.module(Nnx)
    for name, layer in VARIABLES["params"].items():
        nnx.update(getattr(module, name), layer)
    model = qjax.quantize(module, policy, rngs=KEY)
    value, grads = nnx.value_and_grad(lambda m: loss(m(X)))(model)
    return value, {"params": nnx.to_pure_dict(grads)}


def through_a_function(policy):
    apply = qjax.quantize(by_hand, policy, weights=["params"])
    run = lambda v: loss(apply(v["params"], X, quant_key=KEY))  # noqa: E731
    return jax.value_and_grad(run)(VARIABLES)


@pytest.mark.parametrize("name", POLICIES)
def test_values_and_gradients_are_the_same_bits(name):
    policy = POLICIES[name]
    linen, other, function = (f(policy) for f in (through_linen, through_nnx, through_a_function))
    chex.assert_trees_all_equal(linen, function)
    chex.assert_trees_all_equal(linen, other)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(linen))


def test_reports_of_the_three_doors_name_the_same_contractions():
    policy = POLICIES["deterministic"]
    function = qjax.quantize(by_hand, policy, weights=["params"])
    reports = [
        qjax.report(qjax.quantize(Linen(), policy), X, strict=True),
        qjax.report(qjax.quantize(draws.module(Nnx), policy), X, strict=True),
        qjax.report(function, VARIABLES["params"], X, strict=True),
    ]
    lists = [[(row.path, row.op, row.flops, row.formats) for row in r.rows] for r in reports]
    assert lists[0] == lists[1] == lists[2]


@pytest.mark.parametrize("door", ["linen", "nnx", "function"])
def test_convolutions_of_float16_are_those_of_the_decoded_operands_rounded_once(door):
    quantizer = Quantizer("mxfp8")
    x = normal(0, (2, 6, 32), jnp.float16)
    kernel = normal(1, (3, 32, 4), jnp.float16)
    settings = {
        "window_strides": (2,),
        "padding": "SAME",
        "dimension_numbers": ("NWC", "WIO", "NWC"),
    }
    policy = Policy(fwd=Gemm(quantizer, quantizer))
    if door == "linen":
        model = nn.Conv(4, (3,), 2, use_bias=False, dtype=jnp.float16)
        got = qjax.quantize(model, policy).apply({"params": {"kernel": kernel}}, x)
    elif door == "nnx":
        half = {"dtype": jnp.float16, "param_dtype": jnp.float16}
        layer = nnx.Conv(32, 4, (3,), 2, use_bias=False, rngs=nnx.Rngs(0), **half)
        layer.kernel[...] = kernel
        got = qjax.quantize(layer, policy)(x)
    else:
        run = lambda x, w: jax.lax.conv_general_dilated(x, w, **settings)  # noqa: E731
        got = qjax.quantize(run, policy)(x, kernel)
    left = quantizer.cast(x, contract=(1, 2), dtype=jnp.float32)
    right = quantizer.cast(kernel, contract=(0, 1), dtype=jnp.float32)
    expected = jax.lax.conv_general_dilated(left, right, **settings)
    assert got.dtype == jnp.float16
    np.testing.assert_array_equal(got, expected.astype(jnp.float16))
