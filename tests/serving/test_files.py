"""Files of packed models: the same leaves come back, at the size that their bits say."""

import json
import os

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax.serving import load, save
from tests.draws import variables

X = jnp.ones((2, 64))


class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
        blocks = nn.scan(
            lambda module, x, _: (module(x), None),
            variable_axes={"params": 0}, split_rngs={"params": True}, length=3,
        )  # fmt: skip
        x = blocks(nn.Dense(64, name="block"), x, None)[0]
        return nn.Dense(
            96, name="out", dtype=jnp.float32, param_dtype=jnp.bfloat16, use_bias=False
        )(x)


VARIABLES = variables(Model(), X)


def packed(recipe):
    return qjax.pack(VARIABLES, recipe, model=Model(), inputs=(X,))


@pytest.fixture(params=["model.safetensors", "folder"])
def place(request, tmp_path):
    return tmp_path / request.param


@pytest.mark.parametrize("recipe", ["mxfp4", "nvfp4", "nf4", "int8"])
def test_what_is_saved_comes_back(place, recipe):
    saved = packed(recipe)
    save(place, saved)
    for back in (load(place), load(place, like=saved)):
        assert jax.tree.structure(back) == jax.tree.structure(saved)
        jax.tree.map(np.testing.assert_array_equal, back, saved)
        assert [x.dtype for x in jax.tree.leaves(back)] == [x.dtype for x in jax.tree.leaves(saved)]
    abstract = jax.eval_shape(lambda v: qjax.pack(v, recipe, model=Model(), inputs=(X,)), VARIABLES)
    jax.tree.map(np.testing.assert_array_equal, load(place, like=abstract), saved)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_keys_of_streams_come_back_as_keys(place, impl):
    kept = {"dropout": jax.random.key(3, impl=impl), "w": jnp.ones(2), "old": jax.random.PRNGKey(0)}
    save(place, kept)
    chex.assert_trees_all_equal_shapes_and_dtypes(load(place), kept)
    found = load(place, like=kept)["dropout"]
    assert jnp.array_equal(jax.random.bits(found), jax.random.bits(kept["dropout"]))
    other = {**kept, "dropout": jnp.zeros(2, jnp.uint32)}
    with pytest.raises(ValueError, match=r"dropout: key<\w+> scalar in the file, uint32 2 here"):
        load(place, like=other)


def test_the_file_takes_the_bits_of_the_type(tmp_path):
    save(tmp_path / "packed.safetensors", packed("mxfp4"))
    with open(tmp_path / "packed.safetensors", "rb") as file:
        header = int.from_bytes(file.read(8), "little")
    weights, rest = (3 * 64 * 64 + 64 * 96) * 4.25 / 8, 3 * 64 * 4  # The biases are float32.
    assert os.path.getsize(tmp_path / "packed.safetensors") - header - 8 == weights + rest


def test_the_wrong_model_names_the_leaf_and_both_types(place):
    save(place, packed("mxfp4"))
    with pytest.raises(ValueError, match="params/out/kernel: mxfp4 64x96 in the file, mxfp8 64x96"):
        load(place, like=packed("mxfp8"))
    with pytest.raises(ValueError, match="mxfp4 64x96 in the file, bfloat16 64x96 here"):
        load(place, like=VARIABLES)
    other = {"params": {**VARIABLES["params"], "more": {"kernel": X}}}
    with pytest.raises(ValueError, match="params/more/kernel: not in the file"):
        load(place, like=other)
    with pytest.raises(ValueError, match="params/out/kernel: not in the model"):
        load(place, like={"params": {"block": packed("mxfp4")["params"]["block"]}})


def test_a_file_cut_short_or_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save(path, packed("mxfp4"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="no whole safetensors file"):
        load(path)
    from safetensors.numpy import save_file

    save_file({"x": np.ones(2)}, str(path), metadata={"other": json.dumps({})})
    with pytest.raises(ValueError, match="of version None"):
        load(path)
