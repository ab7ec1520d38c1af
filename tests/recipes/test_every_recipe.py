"""Laws that every registered recipe obeys; a new one is tested by being registered."""

import pickle

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import qjax
from qjax import (
    calibration,
    contraction,
    formats,
    gradients,
    operands,
    qtypes,
    quantizer,
    recipes,
    rounding,
)
from qjax.contraction.outside import needs_variables
from tests.draws import drawn, normal
from tests.quick import quick

NAMES = recipes.names()
# What a repr may name: the rooms, what they hold, and first of all what `qjax` itself does.
ROOMS = (calibration, contraction, gradients, operands, quantizer, rounding, qtypes, formats, qjax)
NAMESPACE = {name: thing for room in ROOMS for name, thing in vars(room).items()}
X = normal(0, (8, 32))


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        for name in ("first", "up", "last"):
            x = nn.relu(nn.Dense(32, name=name)(x))
        return nn.Dense(10, name="lm_head")(x)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_named_hashable_and_survives_pickling_and_flattening(name):
    recipe = recipes.get(name)
    assert recipe.name == name
    assert recipe.version >= 1
    assert recipe == recipes.get(name)
    assert hash(recipe) == hash(recipes.get(name))
    assert pickle.loads(pickle.dumps(recipe)) == recipe
    leaves, treedef = jax.tree.flatten(recipe)
    assert jax.tree.unflatten(treedef, leaves) == recipe
    assert eval(repr(recipe), dict(NAMESPACE)) == recipe
    assert name in repr(recipe)


PLAIN = jax.eval_shape(MLP().init, jax.random.key(0), X)


def started(model, rngs):
    """Its variables; where they are plain parameters no program that makes them is compiled."""
    shapes = jax.eval_shape(model.init, rngs, X)
    if jax.tree.structure(shapes) == jax.tree.structure(PLAIN):
        return drawn(shapes)
    return quick(model.init, rngs, X)


@pytest.mark.parametrize("name", NAMES)
def test_a_linen_model_takes_a_step_with_finite_gradients(name):
    model = qjax.quantize(MLP(), name)
    rngs = {"params": jax.random.key(1), "quant": jax.random.key(2)}
    variables = started(model, rngs)
    state = {k: v for k, v in variables.items() if k != "params"}

    def loss(params):
        rngs = {"quant": jax.random.key(2)}
        return jnp.mean(model.apply({"params": params, **state}, X, rngs=rngs) ** 2)

    value, grads = quick(jax.value_and_grad(loss), variables["params"])
    assert np.isfinite(value)
    for leaf in jax.tree.leaves(grads):
        assert np.all(np.isfinite(leaf))
    assert np.any(grads["up"]["kernel"])
    rows = {row.path: row for row in qjax.report(model, X, strict=True).rows}
    assert rows["up"].quantized == (name != "float32")


# Operands that learn or remember keep their values among the variables of a linen module.
STATELESS = [name for name in NAMES if not needs_variables(recipes.get(name).default)]


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(STATELESS)))
def test_what_learns_has_parameters_with_gradients(name):
    model = qjax.quantize(MLP(), name)
    rngs = {"params": jax.random.key(1), "quant": jax.random.key(2)}
    state = quick(model.init, rngs, X)
    params = state.pop("params")
    learned = params["up"].get("quant", {})
    if not jax.tree.leaves(learned):
        return

    def loss(learned):
        changed = {**params, "up": {**params["up"], "quant": learned}}
        rngs = {"quant": jax.random.key(2)}
        return jnp.sum(jnp.sin(model.apply({"params": changed, **state}, 30 * X, rngs=rngs)))

    for leaf in jax.tree.leaves(quick(jax.grad(loss), learned)):
        assert np.all(np.isfinite(leaf))
        assert np.any(leaf)


@pytest.mark.parametrize("name", STATELESS)
def test_an_nnx_model_and_a_function_differentiate(name):
    layer = qjax.quantize(nnx.Linear(32, 32, rngs=nnx.Rngs(0)), name, rngs=nnx.Rngs(quant=1))

    def of_layer(layer):
        return jnp.mean(layer(X) ** 2)

    function = qjax.quantize(of_array, name, weights=["w"])
    by_key = lambda w: function(w, X, quant_key=jax.random.key(3))  # noqa: E731
    shape = jax.eval_shape(jax.grad(by_key), X.T @ X)
    assert shape.shape == (32, 32)
    gradients = nnx.eval_shape(nnx.grad(of_layer), layer)
    assert gradients["kernel"].shape == (32, 32)


def of_array(w, x):
    return jnp.mean((x @ w) ** 2)


class Layer(nnx.Module):
    def __init__(self):
        self.up = nnx.Linear(32, 32, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.up(x)


def by_collection(tree):
    """Shapes of the values of one layer by collection, operand and name, wherever they stand."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    words = [([str(getattr(k, "key", k)) for k in path], leaf.shape) for path, leaf in leaves]
    operands = ("fwd_lhs", "fwd_rhs", "dlhs_lhs", "dlhs_rhs", "drhs_lhs", "drhs_rhs")
    found = {}
    for path, shape in words:
        at = next((n for n, word in enumerate(path) if word in operands), None)
        if at is not None:
            collection = next(w for w in path if w in ("params", "quant", "quant_penalties"))
            found["/".join([collection, *path[at:]])] = shape
    return found


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(STATELESS)))
def test_what_learns_or_remembers_does_so_through_every_door(name):
    """The same values by collection in linen, nnx and functions, and gradients of the learned."""
    key, rngs = jax.random.key(3), {"params": jax.random.key(1), "quant": jax.random.key(2)}
    linen = qjax.quantize(nn.Dense(32), name)
    variables = jax.eval_shape(linen.init, rngs, X)
    of_linen = by_collection(variables)
    assert len(of_linen) == len(jax.tree.leaves(variables)) - 2  # Kernel and bias.

    make = lambda: qjax.quantize(Layer(), name, rngs=nnx.Rngs(quant=1), example=(X,))  # noqa: E731
    layer = nnx.eval_shape(make)
    of_nnx = by_collection(nnx.to_pure_dict(nnx.state(layer)))
    grads = nnx.eval_shape(nnx.grad(lambda layer: jnp.mean(layer(X) ** 2)), layer)
    of_nnx_grads = by_collection(nnx.to_pure_dict(grads))

    function = qjax.quantize(of_array, name, weights=["w"])
    values = jax.eval_shape(lambda w: function.init(w, X, quant_key=key), X.T @ X)
    of_function = by_collection(values)
    call = lambda w, quant: function(w, X, quant=quant, quant_key=key)  # noqa: E731
    gradients = jax.eval_shape(jax.grad(call, (0, 1)), X.T @ X, values)
    assert gradients[0].shape == (32, 32)
    advance = lambda quant: function.advance(X.T @ X, X, quant=quant, quant_key=key)[1]  # noqa: E731
    assert jax.tree.structure(jax.eval_shape(advance, values)) == jax.tree.structure(values)

    assert of_nnx == of_linen
    assert of_function == of_linen
    learned = {place for place in of_linen if place.startswith("params/")}
    assert set(of_nnx_grads) == learned
