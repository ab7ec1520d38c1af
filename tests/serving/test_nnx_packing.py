"""Packed nnx modules compute the bits of the unpacked ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import qjax
from qjax import Gemm, Policy, Quantizer, Recipe, Rule
from qjax.recipes.stored import is_stored
from qjax.serving import load, save
from tests.draws import module, normal

X = normal(0, (2, 4, 32))
MXFP4 = Recipe([Rule(".*", Policy(fwd=Gemm("mxfp8", "mxfp4")))])


class Model(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(32, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 32, decode=False, rngs=rngs)
        self.layers = nnx.List(
            [nnx.Linear(32, 32, rngs=rngs), nnx.Einsum("bti,io->bto", (32, 8), rngs=rngs)]
        )
        self.conv = nnx.Conv(8, 6, (3,), rngs=rngs)
        self.up = nnx.ConvTranspose(6, 4, (2,), rngs=rngs)

    def __call__(self, x):
        x = self.attention(self.norm(x))
        for layer in self.layers:
            x = layer(x)
        return self.up(self.conv(x))


MODEL = module(Model)


@nnx.jit
def run(model, x):
    return model(x)


def test_packed_modules_compute_the_same_bits_and_go_to_disk(tmp_path):
    packed = qjax.pack(MODEL, MXFP4, inputs=(X,))
    out = run(qjax.quantize(MODEL, MXFP4), X)
    np.testing.assert_array_equal(out, run(packed, X))
    assert is_stored(packed.layers[0].kernel.get_value())
    assert is_stored(packed.attention.query.kernel.get_value())
    assert not is_stored(MODEL.layers[0].kernel.get_value())
    graph, state = nnx.split(packed)
    save(tmp_path / "model.safetensors", state)
    again = nnx.merge(graph, load(tmp_path / "model.safetensors", like=state))
    np.testing.assert_array_equal(out, run(again, X))


def test_stochastic_activations_have_the_noise_of_the_unpacked_layer():
    noisy = Quantizer("mxfp8", rounding=qjax.rounding.Stochastic(), scale="floor")
    recipe = Recipe([Rule(".*", Policy(fwd=Gemm(noisy, "mxfp4")))])
    layer, key = nnx.Linear(32, 8, rngs=nnx.Rngs(0)), jax.random.key(3)
    packed = qjax.pack(layer, recipe, inputs=(X,), key=key)
    plain = qjax.quantize(layer, recipe, rngs=key)
    for _ in range(2):  # A second call draws anew.
        np.testing.assert_array_equal(run(plain, X), run(packed, X))


def test_another_recipe_names_the_leaf_and_both_types():
    packed = qjax.pack(nnx.Linear(32, 8, rngs=nnx.Rngs(0)), MXFP4, inputs=(X,))
    with pytest.raises(ValueError, match="takes mxfp8 as `rhs`, but a tensor packed as mxfp4"):
        qjax.quantize(packed, "mxfp8")(X)
    only_others = Recipe([Rule("other", MXFP4.default, optional=True), Rule("", Policy())])
    with pytest.raises(ValueError, match=r"kernel.*packed as mxfp4"):
        qjax.quantize(packed, only_others)


def test_gradients_reach_what_is_not_packed():
    packed = qjax.pack(nnx.Linear(32, 8, rngs=nnx.Rngs(0)), MXFP4, inputs=(X,))
    gradient = jax.grad(lambda x: jnp.sum(packed(x)))(X)
    decoded = packed.kernel.get_value().decode()
    np.testing.assert_allclose(gradient[0, 0], jnp.sum(decoded, 1), rtol=1e-6)


def test_activations_that_learn_are_refused_for_what_they_are():
    learned = qjax.Policy(fwd=qjax.Gemm(qjax.operands.LSQ(bits=8), "mxfp4"))
    with pytest.raises(ValueError, match=r"`pack` .* learn or remember, and a packed nnx module"):
        qjax.pack(nnx.Linear(32, 8, rngs=nnx.Rngs(0)), learned, inputs=(X,))
