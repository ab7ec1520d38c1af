"""Every registered recipe: named, hashable, printable, and it does what its rules say."""

import pickle

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import Policy, Quantizer, Recipe, Rule, recipes

X = jax.random.normal(jax.random.key(0), (8, 64))


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(64, name="up")(x))
        return nn.Dense(10, name="lm_head")(x)


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_is_named_hashable_and_survives_pickling(name):
    recipe = recipes.get(name)
    assert recipe.name == name
    assert recipe.version >= 1
    assert recipe == recipes.get(name)
    assert hash(recipe) == hash(recipes.get(name))
    assert pickle.loads(pickle.dumps(recipe)) == recipe
    leaves, treedef = jax.tree.flatten(recipe)
    assert jax.tree.unflatten(treedef, leaves) == recipe


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_trains_a_step_with_finite_gradients_near_the_float_ones(name):
    model, plain = qjax.quantize(MLP(), name), MLP()
    variables = plain.init(jax.random.key(1), X)
    rngs = {"quant": jax.random.key(2)}

    def grad(m):
        loss = lambda v: jnp.mean(m.apply(v, X, rngs=rngs) ** 2)  # noqa: E731
        return jax.tree.leaves(jax.jit(jax.grad(loss))(variables))

    for g, f in zip(grad(model), grad(plain), strict=True):
        assert np.all(np.isfinite(g))
        if np.linalg.norm(f) > 0:
            cosine = np.vdot(g, f) / np.linalg.norm(g) / np.linalg.norm(f)
            assert cosine > 0.8
    rows = {row.path: row for row in qjax.report(model, X, strict=True).rows}
    assert not rows["lm_head"].quantized
    assert rows["up"].quantized == (name != "float32")


def test_a_type_that_is_no_recipe_stands_for_six_operands():
    recipe = recipes.get("e3m2fn")
    assert recipe.default == Policy.all(Quantizer("e3m2fn"))
    assert recipes.get(Quantizer("e3m2fn")).default == recipe.default
    assert recipes.get(recipe) is recipe


def test_the_first_matching_rule_decides():
    a, b = Policy.all(Quantizer("mxfp8")), Policy.all(Quantizer("mxfp4"))
    recipe = Recipe([Rule("up", a), Rule("u.*", b, ops=["dot_general"]), Rule(".*", Policy())])
    place = lambda path, op: recipe.match(path, op)[0]  # type: ignore[index]  # noqa: E731
    assert place("up", "dot_general") == 0
    assert place("upper", "dot_general") == 1
    assert place("upper", "einsum") == 2
    assert place("x/up", "dot_general") == 2, "a pattern must match the whole path"
    assert [n for n, _ in recipe.unmatched([1])] == [0, 2]


@pytest.mark.parametrize("bad", [3, None, ["mxfp8"]])
def test_what_is_no_recipe_is_refused(bad):
    with pytest.raises(TypeError, match=r"name of a recipe, a Recipe, a Policy"):
        recipes.get(bad)


def test_a_taken_name_is_refused():
    with pytest.raises(ValueError, match=r"'mxfp8'.*taken.*names\(\)"):
        recipes.register("mxfp8")
