"""Packed models compute the bits of the unpacked ones, and nothing is left out in silence."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import Gemm, Policy, QTensor, Quantizer, Recipe, Rule
from qjax.recipes.stored import is_stored
from qjax.serving import UnpackedWarning, size_of
from tests import draws

POLICY = qjax.recipes.get("int8").default
WEIGHTS = {name: Quantizer(name) for name in ("mxfp4", "int8_channel", "nvfp4")}


SPUN = Gemm("int4_channel", "int4_channel", transform=qjax.contraction.Hadamard(8, seed=3))


def weight_only(name):
    return Recipe([Rule(".*", Policy(fwd=Gemm(None, WEIGHTS[name])))], name=name)


class Attention(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = x + nn.MultiHeadDotProductAttention(2, name="attention")(x)
        return nn.Dense(4, name="out", dtype=jnp.bfloat16)(x)


class Images(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(8, (3, 3))(x))
        x = nn.ConvTranspose(4, (2, 2))(x)
        return nn.DenseGeneral((2, 3), axis=(1, 2, 3))(x)


class Sequence(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.RNN(nn.OptimizedLSTMCell(8))(x)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return x + nn.Dense(x.shape[-1])(nn.relu(nn.Dense(16, name="up")(x))), None


class Stack(nn.Module):
    @nn.compact
    def __call__(self, x):
        scanned = nn.scan(
            nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=3
        )
        return scanned(name="blocks")(x, None)[0]


class Mapped(nn.Module):
    @nn.compact
    def __call__(self, x):
        experts = nn.vmap(
            nn.Dense, in_axes=None, variable_axes={"params": 0}, split_rngs={"params": True},
            axis_size=3,
        )  # fmt: skip
        return experts(8, name="experts")(x)


class Mine(nn.Module):
    """A custom module that names its own contraction."""

    policy: Policy

    @nn.compact
    def __call__(self, x):
        w = self.param("w", nn.initializers.normal(), (2, x.shape[-1], 4))
        return nn.Dense(4)(qjax.einsum("bi,hio->bho", x, w, policy=self.policy))


MODELS = {
    "attention": (Attention(), (2, 4, 8)),
    "images": (Images(), (2, 6, 6, 3)),
    "recurrent": (Sequence(), (2, 3, 6)),
    "scanned": (Stack(), (2, 32)),
    "mapped": (Mapped(), (4, 32)),
    "custom": (Mine(weight_only("mxfp4").default), (4, 32)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("recipe", ["mxfp4", "int8_channel", "spun"])
def test_packed_models_compute_the_same_bits(name, recipe):
    if name == "custom" and recipe != "mxfp4":
        return  # Its policy is written in its code.
    model, shape = MODELS[name]
    spun = Recipe([Rule(".*", Policy(fwd=SPUN))])
    x, chosen = draws.normal(0, shape), spun if recipe == "spun" else weight_only(recipe)
    variables = draws.variables(model, x)
    packed = qjax.pack(variables, chosen, model=model, inputs=(x,))
    leaves = jax.tree.leaves_with_path(packed, is_leaf=is_stored)
    for path, leaf in leaves:
        weight = "kernel" in str(path[-1]) or str(path[-1]) == "['w']"
        assert isinstance(leaf, QTensor) == weight, path
    apply = jax.jit(qjax.quantize(model, chosen).apply)
    np.testing.assert_array_equal(apply(variables, x), apply(packed, x))
    assert packed["params"].keys() == variables["params"].keys()


def test_six_quantized_operands_with_noise_compute_the_same_bits():
    noisy = Quantizer("mxfp8", rounding=qjax.rounding.Stochastic(), scale="floor")
    recipe = Recipe([Rule(".*", Policy(fwd=Gemm(noisy, "mxfp8"), drhs=Gemm(noisy, noisy)))])
    model, x = nn.Sequential([nn.Dense(8), nn.Dense(4)]), draws.normal(0, (3, 32))
    variables = draws.variables(model, x)
    packed = qjax.pack(variables, recipe, model=model, inputs=(x,))
    apply = jax.jit(qjax.quantize(model, recipe).apply)
    key = {"quant": jax.random.key(5)}
    np.testing.assert_array_equal(apply(variables, x, rngs=key), apply(packed, x, rngs=key))


def test_names_alone_pack_matrices_as_the_model_does():
    model = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(4)])
    x = jnp.ones((2, 32))
    variables = draws.variables(model, x)
    recipe = Recipe([Rule("layers_2", Policy()), Rule(".*", weight_only("nvfp4").default)])
    named = qjax.pack(variables, recipe)
    traced = qjax.pack(variables, recipe, model=model, inputs=(x,))
    jax.tree.map(np.testing.assert_array_equal, named, traced)
    assert not is_stored(named["params"]["layers_2"]["kernel"])


def test_kernels_of_more_axes_need_the_model():
    model = nn.Conv(4, (3, 3))
    variables = draws.variables(model, jnp.ones((1, 4, 4, 2)))
    with pytest.raises(ValueError, match=r"params/kernel: a kernel of shape .* pass `model=`"):
        qjax.pack(variables, "mxfp8")


class Scaled(nn.Module):
    @nn.compact
    def __call__(self, x):
        w = self.param("w", nn.initializers.normal(), (x.shape[-1], 8))
        policy = weight_only("mxfp4").default
        y = qjax.dot_general(x, 2 * w, (((1,), (0,)), ((), ())), policy=policy)
        return nn.Dense(4)(y)


class Twice(nn.Module):
    @nn.compact
    def __call__(self, x):
        dense = nn.Dense(8, name="dense")
        y = dense(x)
        return y + jnp.sum(dense.variables["params"]["kernel"])


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Scaled(), r"dot_general of \(2, 32\) and \(32, 8\)\): .* computed, not moved"),
        (Twice(), "params/dense/kernel: it is read by reduce_sum"),
    ],
)
def test_what_cannot_be_packed_is_said(model, reason):
    x = jnp.ones((2, 32))
    variables, recipe = draws.variables(model, x), weight_only("mxfp4")
    with pytest.raises(ValueError, match=reason):
        qjax.pack(variables, recipe, model=model, inputs=(x,))


def test_not_strict_packs_the_rest_and_warns():
    x, model = jnp.ones((2, 32)), Scaled()
    variables, recipe = draws.variables(model, x), weight_only("mxfp4")
    with pytest.warns(UnpackedWarning, match="computed, not moved"):
        packed = qjax.pack(variables, recipe, model=model, inputs=(x,), strict=False)
    assert is_stored(packed["params"]["Dense_0"]["kernel"])
    apply = qjax.quantize(model, recipe).apply
    np.testing.assert_array_equal(apply(packed, x), apply(variables, x))


@pytest.mark.parametrize("name", ["int8_tensor", "nvfp4"])
def test_a_scale_over_joined_kernels_is_no_scale_of_one_of_them(name):
    x = jnp.ones((2, 3, 8))
    variables = draws.variables(Sequence(), x)
    recipe = Recipe([Rule(".*", Policy(fwd=Gemm(None, name)))])
    with pytest.raises(ValueError, match="a scale spans the parts"):
        qjax.pack(variables, recipe, model=Sequence(), inputs=(x,))


def test_the_wrong_recipe_names_the_leaf_and_both_types():
    x, model = jnp.ones((2, 32)), nn.Sequential([nn.Dense(8)])
    packed = qjax.pack(draws.variables(model, x), "mxfp4", model=model, inputs=(x,))
    with pytest.raises(ValueError, match=r"at 'layers_0' takes mxfp8 as `rhs`, but .* as mxfp4"):
        qjax.quantize(model, "mxfp8").apply(packed, x)
    float_first = Recipe([Rule("layers_0", Policy()), Rule("x", POLICY, optional=True)])
    with pytest.raises(ValueError, match=r"layers_0/kernel.*packed as mxfp4"):
        qjax.quantize(model, float_first).apply(packed, x)


class Named(nn.Module):
    @nn.compact
    def __call__(self, *, inputs):
        return nn.Dense(8, name="dense")(inputs)


def test_the_float_model_and_array_functions_take_no_packed_weights():
    x, dense = jnp.ones((2, 32)), nn.Dense(8)
    packed = qjax.pack(dense.init(jax.random.key(0), x), "mxfp4")
    kernel = packed["params"]["kernel"]
    for use in (lambda: dense.apply(packed, x), lambda: x @ kernel, lambda: jnp.asarray(kernel)):
        with pytest.raises(TypeError, match=r"mxfp4, 32x8.*used as an array.*qjax\.quantize"):
            use()


def test_inputs_may_be_taken_by_name():
    x = jnp.ones((2, 32))
    variables = draws.variables(Named(), inputs=x)
    packed = qjax.pack(variables, "mxfp4", model=Named(), inputs={"inputs": x})
    assert is_stored(packed["params"]["dense"]["kernel"])


def test_nothing_to_pack_is_an_error():
    x, model = jnp.ones((2, 32)), nn.Dense(8)
    variables = draws.variables(model, x)
    with pytest.raises(ValueError, match="found none"):
        qjax.pack(variables, "float32", model=model, inputs=(x,))


def test_shapes_are_enough():
    model, x = MODELS["scanned"][0], jax.ShapeDtypeStruct((2, 32), jnp.float32)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.ones((2, 32))))

    def packing(v):
        return qjax.pack(v, "mxfp4", model=model, inputs=(x,))

    packed = jax.eval_shape(packing, variables)
    kernel = packed["params"]["blocks"]["up"]["kernel"]
    assert is_stored(kernel)
    assert kernel.qvalue.shape == (3, 32, 16)
    assert kernel.shape == (32, 16)


def test_sizes_are_what_bits_per_element_says():
    model, x = nn.Dense(64, use_bias=False), jnp.ones((1, 64))
    packed = qjax.pack(draws.variables(model, x), "mxfp4", model=model, inputs=(x,))
    assert size_of(packed).packed == 64 * 64 * 4.25 / 8
    assert size_of(packed).bits_per_element == qjax.qtypes.MXFP4.bits_per_element


@pytest.mark.parametrize("recipe", WEIGHTS)
def test_a_model_of_many_layers_decodes_one_at_a_time(recipe):
    """Compilers that decode them all at once would need twelve layers of floats."""

    class Deep(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(12):
                x = jnp.tanh(nn.Dense(64, use_bias=False)(x))
            return x

    model, x, chosen = Deep(), jnp.ones((2, 64)), weight_only(recipe)
    packed = qjax.pack(draws.variables(model, x), chosen, model=model, inputs=(x,))
    program = jax.jit(qjax.quantize(model, chosen).apply).lower(packed, x).compile()
    assert program.memory_analysis().temp_size_in_bytes < 3 * 64 * 64 * 4


def test_a_scanned_model_decodes_one_layer_at_a_time():
    class Deep(nn.Module):
        @nn.compact
        def __call__(self, x):
            scanned = nn.scan(
                lambda module, x, _: (jnp.tanh(module(x)), None),
                variable_axes={"params": 0}, split_rngs={"params": True}, length=16,
            )  # fmt: skip
            return scanned(nn.Dense(64, use_bias=False), x, None)[0]

    model, x = Deep(), jnp.ones((2, 64))
    recipe = weight_only("mxfp4")
    packed = qjax.pack(draws.variables(model, x), recipe, model=model, inputs=(x,))
    program = jax.jit(qjax.quantize(model, recipe).apply).lower(packed, x).compile()
    assert program.memory_analysis().temp_size_in_bytes < 5 * 64 * 64 * 4
