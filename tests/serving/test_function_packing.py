"""A language model written by hand, without any library, computes on packed weights."""

import jax
import jax.numpy as jnp
import numpy as np

import qjax
from qjax import Gemm, Policy, Recipe, Rule
from qjax.recipes.stored import is_stored
from tests.draws import normal

WIDTH, HEADS, LAYERS = 32, 2, 3
RECIPE = Recipe([Rule("logits", Policy()), Rule(".*", Policy(fwd=Gemm("mxfp8", "mxfp4")))])


def init():
    sizes = {
        "qkv": (WIDTH, 3 * WIDTH),
        "out": (WIDTH, WIDTH),
        "up": (WIDTH, 64),
        "down": (64, WIDTH),
    }
    layers = {name: normal(n, (LAYERS, *size)) / 8 for n, (name, size) in enumerate(sizes.items())}
    return {"embed": normal(4, (16, WIDTH)), "layers": layers}


def block(x, w):
    heads = (x @ w["qkv"]).reshape(*x.shape[:2], 3, HEADS, -1)
    q, k, v = jnp.moveaxis(heads, 2, 0)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
    x = x + mixed.reshape(x.shape) @ w["out"]
    return x + jax.nn.gelu(x @ w["up"]) @ w["down"], None


def model(params, tokens):
    x, _ = jax.lax.scan(jax.checkpoint(block), params["embed"][tokens], params["layers"])
    with jax.named_scope("logits"):
        return x @ params["embed"].T


def test_a_model_written_by_hand_serves_packed_weights():
    params, tokens = init(), jnp.arange(12).reshape(2, 6)
    report = qjax.report(qjax.quantize(model, RECIPE, weights=0), params, tokens, strict=True)
    assert sum(row.quantized for row in report.rows) == 6
    packed = qjax.pack(params, RECIPE, model=model, inputs=(tokens,))
    assert all(is_stored(w) for w in packed["layers"].values())
    # It makes logits too, in high precision, and is looked up: it stays an array.
    assert not is_stored(packed["embed"])
    run = jax.jit(qjax.quantize(model, RECIPE, weights=0))
    np.testing.assert_array_equal(run(params, tokens), run(packed, tokens))
