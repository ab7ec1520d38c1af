"""Layers taken out of a bound quantized model compute as they do in it, and nothing else does."""

import copy
import functools
import pickle

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import Policy, Recipe, Rule
from tests import draws
from tests.linen.models import COARSE, X

RULES = Recipe([Rule("inner/enc", COARSE), Rule("inner/layers_0", COARSE)], name="two of five")


class Inner(nn.Module):
    def setup(self):
        self.enc = nn.Dense(40)
        self.layers = [nn.Dense(40), nn.Dense(40)]
        self.table = nn.Embed(7, 40)

    def encode(self, x):
        return self.enc(x)

    def __call__(self, x):
        return self.table.attend(self.layers[1](self.layers[0](self.encode(x))))


class Outer(nn.Module):
    inner: nn.Module

    def setup(self):
        self.tail = nn.Sequential([nn.Dense(40), nn.relu])

    def __call__(self, x):
        return self.inner(x), self.tail(x)

    def called(self, name, x):
        return TAKEN[name](self, x)


TAKEN = {
    "encode": lambda model, x: model.inner.enc(x),
    "first": lambda model, x: model.inner.layers[0](x),
    "second": lambda model, x: model.inner.layers[1](x),
    "attend": lambda model, x: model.inner.table.attend(x),
    "tail": lambda model, x: model.tail.layers[0](x),
}
PLAIN = Outer(Inner())
VARIABLES = draws.variables(PLAIN, X)


def whole(model, name, **kwargs):
    """What a layer gives inside the model."""
    return model.apply(VARIABLES, name, X, method="called", **kwargs)


@pytest.mark.parametrize("name", TAKEN)
@pytest.mark.parametrize("recipe", ["mxfp4_rne", "float32", RULES], ids=["all", "none", "some"])
def test_a_layer_called_by_hand_computes_as_inside_the_model(name, recipe):
    model, take = qjax.quantize(PLAIN, recipe), TAKEN[name]
    expected, bound = whole(model, name), model.bind(VARIABLES)
    np.testing.assert_array_equal(take(bound, X), expected)
    np.testing.assert_array_equal(nn.apply(take, model)(VARIABLES, X), expected)
    np.testing.assert_array_equal(take(copy.copy(bound), X), expected)
    quantized = recipe == "mxfp4_rne" or (recipe is RULES and name in ("encode", "first"))
    assert jnp.array_equal(expected, whole(PLAIN, name)) != quantized


def test_it_does_so_before_and_after_the_model_was_called():
    bound = qjax.quantize(PLAIN, "mxfp4_rne").bind(VARIABLES)
    out = bound(X)
    for name, take in TAKEN.items():
        expected = whole(qjax.quantize(PLAIN, "mxfp4_rne"), name)
        np.testing.assert_array_equal(take(bound, X), expected)
        np.testing.assert_array_equal(jax.jit(functools.partial(take, bound))(X), expected)
    chex.assert_trees_all_equal(bound(X), out)


def test_a_part_that_is_unbound_keeps_its_rules():
    model = qjax.quantize(PLAIN, RULES)
    part, variables = model.bind(VARIABLES).inner.unbind()
    for again in (part, copy.deepcopy(part), pickle.loads(pickle.dumps(part))):
        out = again.apply(variables, X, method="encode")
        np.testing.assert_array_equal(out, whole(model, "encode"))
        np.testing.assert_array_equal(again.bind(variables).enc(X), out)
    report = qjax.report(part, X, variables=variables)
    assert [row.path for row in report.rows if row.quantized] == ["enc", "layers_0"]
    other = qjax.quantize(part, "float32").apply(variables, X, method="encode")
    np.testing.assert_array_equal(other, whole(PLAIN, "encode"))


@pytest.mark.parametrize("inner", [Policy(), Policy.all(qjax.Quantizer("e4m3fn"))])
def test_a_part_that_is_quantized_itself_decides_first(inner):
    plain = Outer(qjax.quantize(Inner(), Recipe([Rule("enc", inner), Rule("n/a", COARSE)])))
    model = qjax.quantize(plain, "mxfp4_rne")
    with pytest.warns(qjax.linen.UnmatchedRuleWarning, match="n/a"):
        model.apply(VARIABLES, X)
    for name, take in TAKEN.items():
        np.testing.assert_array_equal(take(model.bind(VARIABLES), X), whole(model, name))


class Lending(nn.Module):
    """Lends its own layer to a quantized block, and reaches for one of the block's."""

    block: type[nn.Module]

    def setup(self):
        self.own = nn.Dense(40)
        self.asked = self.block(self.own)

    def __call__(self, x):
        return self.asked.tail.layers[0](x), self.asked.inner(x), self.own(x)


def test_what_another_model_owns_stays_as_it_is():
    x, plain = X, Lending(Outer)
    variables = draws.variables(plain, x)
    tail, _, own = plain.apply(variables, x)
    quantized = Lending(qjax.quantize(Outer, "mxfp4_rne"))
    reached, lent, kept = quantized.apply(variables, x)
    assert not jnp.array_equal(reached, tail)
    np.testing.assert_array_equal(lent, own)
    np.testing.assert_array_equal(kept, own)


def test_what_the_user_built_is_untouched_and_classes_are_made_once():
    inner = Inner()
    model = qjax.quantize(Outer(inner), "mxfp4_rne")
    hashed, kinds = hash(model), []
    for _ in range(2):
        bound = model.bind(VARIABLES)
        kinds.append((type(bound.inner), type(bound.inner.enc), type(bound.tail.layers[0])))
    assert kinds[0] == kinds[1]
    assert type(inner) is type(model.inner) is Inner
    assert hash(model) == hashed
    np.testing.assert_array_equal(inner.apply(_of_inner(), X), PLAIN.bind(VARIABLES).inner(X))


def _of_inner():
    return {"params": VARIABLES["params"]["inner"]}


def test_noise_of_a_part_is_that_of_its_path_in_the_model():
    noisy = qjax.Quantizer("mxfp4", rounding=qjax.rounding.Stochastic(), scale="floor")
    model = qjax.quantize(PLAIN, Policy(fwd=qjax.Gemm(noisy, None)))
    rngs = {"quant": jax.random.key(3)}
    bound = model.bind(VARIABLES, rngs=rngs)
    np.testing.assert_array_equal(bound.inner.enc(X), whole(model, "encode", rngs=rngs))
    assert not jnp.array_equal(bound.inner.enc(X), whole(model, "encode", rngs=rngs))
    with pytest.raises(ValueError, match=r"rngs=\{'quant': key\}"):
        model.bind(VARIABLES).inner.enc(X)


def test_learned_values_of_a_part_are_those_of_the_model():
    model = qjax.quantize(PLAIN, "lsq4")
    variables = model.init(jax.random.key(0), X)
    by_hand = lambda v: jnp.sum(model.bind(v).inner.enc(X) ** 2)  # noqa: E731
    inside = lambda v: jnp.sum(model.apply(v, "encode", X, method="called") ** 2)  # noqa: E731
    chex.assert_trees_all_equal(*(jax.grad(f)(variables) for f in (by_hand, inside)))
    with pytest.raises(ValueError, match=r"'inner/enc'.*quant"):
        model.bind(VARIABLES).inner.enc(X)


@pytest.mark.parametrize(
    "method",
    [
        PLAIN.called,
        functools.partial(lambda model, name, x: model.called(name, x)),
        lambda model, name, x: Outer.called(model, name, x),
    ],
)
def test_whatever_is_given_to_apply_is_quantized(method):
    model = qjax.quantize(PLAIN, "mxfp4_rne")
    out = model.apply(VARIABLES, "encode", X, method=method)
    np.testing.assert_array_equal(out, whole(model, "encode"))


def test_a_submodule_is_entered_by_its_name():
    model = qjax.quantize(PLAIN, "mxfp4_rne")
    expected, _ = model.apply(VARIABLES, X)
    np.testing.assert_array_equal(model.apply(VARIABLES, X, method="inner"), expected)


@qjax.quantize("e4m3fn")
class Decorated(Inner):
    """A class whose subclasses are quantized anew."""


class Below(Decorated):
    pass


def test_a_class_below_a_quantized_one_takes_the_new_recipe():
    variables = _of_inner()
    out = qjax.quantize(Below(), "mxfp4_rne").apply(variables, X)
    np.testing.assert_array_equal(out, qjax.quantize(Inner(), "mxfp4_rne").apply(variables, X))
    np.testing.assert_array_equal(
        Below().apply(variables, X), qjax.quantize(Inner(), "e4m3fn").apply(variables, X)
    )
