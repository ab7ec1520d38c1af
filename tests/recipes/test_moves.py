"""Packed weights in any function: they move as codes, and are never quantized a second time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import Gemm, Policy, Quantizer
from tests.draws import normal

KEY = jax.random.key(0)
X = normal(0, (4, 32))
W = normal(1, (32, 32))
INT8 = Quantizer("int8_channel")
POLICY = Policy(fwd=Gemm(INT8, INT8))


def same(function, w, packed, *inputs, policy=POLICY):
    run = jax.jit(qjax.quantize(function, policy, weights=[0]))
    plain, stored = run(w, *inputs), run(packed, *inputs)
    np.testing.assert_array_equal(plain, stored)


MOVED = {
    "as it is": (lambda w, x: x @ w, 0),
    "transposed": (lambda w, x: x @ w.T, 1),
    "on the left": (lambda w, x: w @ x.T, 1),
    "cast": (lambda w, x: x.astype(jnp.bfloat16) @ w.astype(jnp.bfloat16), 0),
    "with an axis more": (lambda w, x: jnp.einsum("bi,gio->bgo", x, w[None]), 0),
    "in an inner jit": (lambda w, x: x @ jax.jit(lambda v: jnp.moveaxis(v, 0, 1))(w), 1),
    "under remat": (lambda w, x: jax.checkpoint(lambda v, y: jnp.tanh(y @ v))(w, x), 0),
    "in a branch": (lambda w, x: jax.lax.cond(x[0, 0] > 9, lambda: x, lambda: x @ w), 0),
    "in a while loop": (lambda w, x: jax.lax.fori_loop(0, 2, lambda i, y: jnp.tanh(y @ w), x), 0),
    "joined": (lambda w, x: x @ jnp.concatenate([w, w], 1), 0),
}


@pytest.mark.parametrize("name", MOVED)
def test_moves_act_on_codes(name):
    function, axis = MOVED[name]
    dtype = jnp.bfloat16 if name == "cast" else jnp.float32
    same(function, W, INT8.encode(W.astype(dtype), contract=(axis,)), X)


@pytest.mark.parametrize("pick", ["scan", "indices", "vmap"])
def test_stacked_layers_are_taken_one_by_one(pick):
    stack = normal(0, (3, 32, 32))
    quantizer = Quantizer("int8_tensor")  # One scale for each layer, not for the stack.
    packed = jax.vmap(lambda w: quantizer.encode(w, contract=(0,)))(stack)

    def function(w, x):
        if pick == "vmap":
            return jax.vmap(lambda v: x @ v)(w)
        if pick == "indices":
            return x @ w[0] @ w[2]
        return jax.lax.scan(lambda y, v: (jnp.tanh(y @ v), None), x, w)[0]

    policy = Policy(fwd=Gemm(quantizer, quantizer))
    if pick == "vmap":
        quantized = jax.vmap(qjax.quantize(lambda w, x: x @ w, policy, weights=[0]), (0, None))
        np.testing.assert_array_equal(quantized(stack, X), quantized(packed, X))
    else:
        same(function, stack, packed, X, policy=policy)


def test_no_loop_holds_more_than_one_decoded_layer():
    stack = normal(0, (16, 64, 64))
    quantizer = Quantizer("mxfp4")
    packed = jax.vmap(lambda w: quantizer.encode(w, contract=(0,)))(stack)

    def function(w, x):
        return jax.lax.scan(lambda y, v: (jnp.tanh(y @ v), None), x, w)[0]

    run = qjax.quantize(function, Policy(fwd=Gemm(None, quantizer)), weights=[0])
    program = jax.jit(run).lower(packed, jnp.ones((2, 64))).compile()
    # Decoding takes the values, the scales of each and their product: a few layers' worth,
    # where sixteen would be needed to decode them all.
    assert program.memory_analysis().temp_size_in_bytes < 5 * 64 * 64 * 4


def test_what_is_no_contraction_sees_the_decoded_array():
    packed = INT8.encode(W, contract=(0,))
    run = qjax.quantize(lambda w, x: (x @ w, jnp.sum(w)), POLICY, weights=[0])
    np.testing.assert_array_equal(run(packed, X)[1], jnp.sum(packed.decode()))


REFUSED = {
    "computed": (lambda w, x: x @ (2 * w), "more than moves of its elements"),
    "tiles cut": (lambda w, x: x @ w.reshape(64, 16)[:32], "more than moves of its elements"),
    "other axis": (lambda w, x: x @ w.T, "along the axes"),
    "carried": (
        lambda w, x: jax.lax.fori_loop(0, 2, lambda i, s: (s[0] @ s[1], s[1] + 1), (x, w))[0],
        "more than moves of its elements",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_second_quantization_is_refused(name):
    function, message = REFUSED[name]
    packed = INT8.encode(W, contract=(0,))
    with pytest.raises(ValueError, match=message):
        qjax.quantize(function, POLICY, weights=[0])(packed, X)


def test_contractions_in_high_precision_refuse_packed_weights():
    packed = INT8.encode(W, contract=(0,))
    recipe = qjax.Recipe([qjax.Rule("inside", Policy()), qjax.Rule(".*", POLICY)])

    def function(w, x):
        with jax.named_scope("inside"):
            return x @ w

    with pytest.raises(ValueError, match=r"inside.*no rule quantizes it.*int8"):
        qjax.quantize(function, recipe, weights=[0])(packed, X)
