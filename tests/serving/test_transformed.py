"""Weights packed behind transforms that cancel: the bits of the unpacked model, or an error."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import qjax
from qjax import Gemm, Policy, Quantizer, Recipe, Rule, calibration, operands
from qjax.contraction import Hadamard, Permutation, Smoothing
from qjax.serving import load, save
from tests.draws import module, normal, variables

KEY = jax.random.key(0)
X = normal(0, (3, 32))
SPUN = Hadamard(8, seed=3)


def recipe(transform, kind="int4_channel"):
    return Recipe([Rule(".*", Policy(fwd=Gemm(kind, kind, transform=transform)))])


SCALES = np.linspace(0.5, 3, 32, dtype=np.float32)
FIXED = [
    Hadamard(16, seed=1, orthonormal=False),
    Permutation(tuple(np.random.RandomState(0).permutation(32))),
    Smoothing(scales=tuple(SCALES.tolist())),
    Smoothing(scales=jnp.asarray(SCALES)),
]


@pytest.mark.parametrize("transform", FIXED)
@pytest.mark.parametrize("left", [False, True])
def test_functions_compute_the_same_bits_whichever_operand_is_the_weight(transform, left):
    def model(w, x):
        return w.T @ x.T if left else x @ w

    w, chosen = normal(1, (32, 16)), recipe(transform, "mxfp4")
    packed = qjax.pack(w, chosen, model=model, inputs=(X,))
    run = jax.jit(qjax.quantize(model, chosen, weights=0))
    np.testing.assert_array_equal(run(w, X), run(packed, X))


def test_modules_of_nnx_compute_the_same_bits_and_go_to_disk(tmp_path):
    model = module(
        lambda rngs: nnx.Sequential(nnx.Linear(32, 16, rngs=rngs), nnx.Linear(16, 8, rngs=rngs))
    )
    packed = qjax.pack(model, recipe(SPUN), inputs=(X,))
    run = nnx.jit(lambda model: model(X))
    expected = run(qjax.quantize(model, recipe(SPUN)))
    np.testing.assert_array_equal(expected, run(packed))
    graph, state = nnx.split(packed)
    save(tmp_path / "model.safetensors", state)
    again = nnx.merge(graph, load(tmp_path / "model.safetensors", like=state))
    np.testing.assert_array_equal(expected, run(again))


DENSE = nn.Sequential([nn.Dense(16)])
VARIABLES = variables(DENSE, X)


def packed(transform):
    return qjax.pack(VARIABLES, recipe(transform), model=DENSE, inputs=(X,))


@pytest.mark.parametrize("place", ["model.safetensors", "folder"])
def test_files_keep_what_the_values_went_through(tmp_path, place):
    save(tmp_path / place, packed(SPUN))
    back = load(tmp_path / place, like=packed(SPUN))
    run = qjax.quantize(DENSE, recipe(SPUN)).apply
    np.testing.assert_array_equal(run(back, X), run(VARIABLES, X))
    with pytest.raises(ValueError, match=r"after Hadamard\(block=8, seed=3, .* in the file, int4"):
        load(tmp_path / place, like=packed(None))


@pytest.mark.parametrize("other", [None, Hadamard(8, seed=4), Hadamard(16, seed=3), Smoothing()])
def test_another_transform_is_refused_with_the_leaf_and_both(other):
    run = qjax.quantize(DENSE, recipe(other)).apply
    wanted = "takes int4_channel as" if other is None else f"takes int4_channel after {other!r}"
    with pytest.raises(ValueError) as error:
        run(packed(SPUN), X)
    for part in ("'layers_0'", wanted.replace("_channel", ""), f"after {SPUN!r}"):
        assert part in str(error.value).replace(qjax.qtypes.INT4_CHANNEL.name, "int4"), error.value
    if other is not None and other != Smoothing():
        with pytest.raises(ValueError, match=r"'layers_0' takes .* after Hadamard"):
            qjax.quantize(DENSE, recipe(other)).apply(packed(None), X)


def test_scales_of_other_numbers_are_another_transform():
    one = Smoothing(scales=tuple(SCALES.tolist()))
    run = qjax.quantize(DENSE, recipe(Smoothing(scales=tuple((2 * SCALES).tolist())))).apply
    with pytest.raises(
        ValueError, match=r"32 scales, sha256 \w+.* packed as .*\(32 scales, sha256"
    ):
        run(packed(one), X)


@pytest.mark.parametrize("measuring", [Smoothing(), Permutation()])
def test_what_follows_from_the_other_operand_is_refused(measuring):
    with pytest.raises(ValueError, match=r"layers_0/kernel: .* follows from operands at hand"):
        packed(measuring)


def test_names_alone_pack_matrices_as_the_model_does():
    named = qjax.pack(VARIABLES, recipe(SPUN))
    jax.tree.map(np.testing.assert_array_equal, named, packed(SPUN))
    assert jax.tree.structure(named) == jax.tree.structure(packed(SPUN))


def test_transformed_values_are_nothing_for_other_readers():
    def model(w, x):
        return x @ w + jnp.sum(w)

    tensor = packed(SPUN)["params"]["layers_0"]["kernel"]
    read = qjax.quantize(model, recipe(SPUN), weights=0)
    with pytest.raises(ValueError, match="read by reduce_sum"):
        qjax.pack(tensor.decode(), recipe(SPUN), model=model, inputs=(X,))
    with pytest.raises(ValueError, match="otherwise than by a contraction"):
        read(tensor, X)
    with pytest.raises(ValueError, match="axes that went through this map as a whole"):
        tensor[:16]


@pytest.mark.parametrize("settings", [{"residuals": "codes"}, {"clip": True}])
def test_policies_that_keep_codes_or_masks_pack_too(settings):
    """With codes kept, the gradient of the unpacked model sees the stored values as well."""
    gemm = recipe(SPUN, "int8_channel").default.fwd
    chosen = Recipe([Rule(".*", Policy(fwd=gemm, **settings))])
    tensors = qjax.pack(VARIABLES, chosen, model=DENSE, inputs=(X,))
    run = jax.jit(qjax.quantize(DENSE, chosen).apply)
    np.testing.assert_array_equal(run(tensors, X), run(VARIABLES, X))
    one, other = (jax.grad(lambda x, v=v: jnp.sum(run(v, x)))(X) for v in (tensors, VARIABLES))
    np.testing.assert_allclose(one, other, atol=1e-6 if "residuals" in settings else 0.02)


def test_gradients_of_the_other_operand_see_the_weight_transformed_back():
    chosen = recipe(SPUN, "int8_channel")
    tensors = qjax.pack(VARIABLES, chosen, model=DENSE, inputs=(X,))
    run = qjax.quantize(DENSE, chosen).apply
    gradient = jax.grad(lambda x: jnp.sum(run(tensors, x)))(X)
    kernel = VARIABLES["params"]["layers_0"]["kernel"]
    np.testing.assert_allclose(gradient, jnp.ones((3, 16)) @ kernel.T, atol=0.02)
    stored = tensors["params"]["layers_0"]["kernel"].decode()
    assert jnp.max(jnp.abs(jnp.ones((3, 16)) @ stored.T - gradient)) > 0.1


REMEMBERING = Quantizer("int8_tensor", calibration=calibration.Delayed(length=4))


@pytest.mark.parametrize("transform", [None, SPUN])
@pytest.mark.parametrize("activations", [operands.LSQ(bits=4), REMEMBERING])
def test_packed_weights_stand_beside_activations_that_learn_or_remember(transform, activations):
    chosen = Policy(fwd=Gemm(activations, "int4_channel", transform=transform))
    model = qjax.quantize(DENSE, chosen)
    started = model.init(KEY, X)
    tensors = qjax.pack(started, chosen, model=DENSE, inputs=(X,))
    assert isinstance(tensors["params"]["layers_0"]["kernel"], qjax.QTensor)
    run = jax.jit(lambda v: model.apply(v, 2 * X, mutable=["quant"]))
    jax.tree.map(np.testing.assert_array_equal, run(tensors), run(started))


def test_a_weight_that_is_trained_is_said_to_be_the_reason():
    started = qjax.quantize(DENSE, "lsq4").init(KEY, X)
    with pytest.raises(
        ValueError, match=r"layers_0 \(dot_general of .*\): LSQ\(.* more of its weight"
    ):
        qjax.pack(started, "lsq4", model=DENSE, inputs=(X,))
