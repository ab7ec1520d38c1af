"""What nnx modules contract by their own code: reported at its path, and covered in two ways."""

import contextlib
import pickle
import warnings

import chex
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import qjax
from tests.draws import normal

MXFP8 = qjax.Policy.all(qjax.Quantizer("mxfp8"))
RECIPE = qjax.Recipe([qjax.Rule("experts/router", MXFP8), qjax.Rule(".*", MXFP8)])
X = normal(0, (4, 32))


class Experts(nnx.Module):
    """Every expert sees every row; a router weighs them."""

    def __init__(self, policy, rngs):
        self.policy = policy
        self.router = nnx.Linear(32, 3, rngs=rngs)
        self.w = nnx.Param(jax.random.normal(rngs.params(), (3, 32, 8)))

    def contract(self, *args):
        if self.policy is None:
            return jnp.einsum(*args)
        return qjax.einsum(*args, policy=self.policy)

    def __call__(self, x):
        each = self.mix(x)
        return self.contract("be,bef->bf", jax.nn.softmax(self.router(x)), each)

    def mix(self, x):
        return self.contract("bd,edf->bef", x, self.w[...])


class Model(nnx.Module):
    def __init__(self, policy=None):
        rngs = nnx.Rngs(0)
        self.experts = Experts(policy, rngs)
        self.head = nnx.Embed(5, 8, rngs=rngs)

    def __call__(self, x):
        return self.head.attend(self.experts(x))


def rows(report):
    return [(row.path, row.op, row.quantized) for row in report.rows]


def test_reports_name_the_module_that_contracts_by_itself():
    expected = [
        ("experts", "einsum"), ("experts/router", "dot_general"), ("experts", "einsum"),
        ("head", "dot_general"),
    ]  # fmt: skip
    plain = qjax.report(Model(), X)
    assert rows(plain) == [(*row, False) for row in expected]
    report = qjax.report(qjax.quantize(Model(), "mxfp8"), X)
    assert [row.missed for row in report.rows] == [True, False, True, False]
    with pytest.raises(
        ValueError, match=r"experts \(einsum\).*qjax\.einsum.*quantize the function"
    ):
        report.check()


def test_the_function_that_applies_a_module_covers_all_of_it():
    """The layers keep what the nnx door gave them; the rest is rewritten, and no rule is missed."""
    model = qjax.quantize(Model(), RECIPE)
    graph, state = nnx.split(model)
    apply = qjax.quantize(lambda state, x: nnx.merge(graph, state)(x), RECIPE, weights=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = qjax.report(apply, state, X, strict=True)
        value, grads = jax.value_and_grad(lambda s: jnp.cos(apply(s, X)).sum())(state)
    assert all(row.quantized for row in report.rows)
    assert [row.path for row in report.rows] == ["experts", "experts/router", "experts", "head"]
    # An author who writes `qjax.einsum` gets the same numbers.
    own = qjax.quantize(Model(MXFP8), RECIPE)
    expected = nnx.value_and_grad(lambda m: jnp.cos(m(X)).sum())(own)
    chex.assert_trees_all_equal(value, expected[0])
    assert jnp.array_equal(grads["experts"]["w"][...], expected[1]["experts"]["w"][...])


class Classifier(nnx.Module):
    def __init__(self, scoped=False):
        self.scoped = scoped
        self.up = nnx.Linear(32, 32, rngs=nnx.Rngs(0))
        self.lm_head = nnx.Linear(32, 8, rngs=nnx.Rngs(1))

    def __call__(self, x):
        x = self.up(x)
        with jax.named_scope("lm_head") if self.scoped else contextlib.nullcontext():
            return self.lm_head(x)


@pytest.mark.parametrize("way", ["named scope", "door of its own", "neither"])
def test_paths_of_a_module_in_a_function_are_those_of_its_own_door_or_of_scopes(way):
    module = Classifier(scoped=way == "named scope")
    expected = qjax.quantize(module, "mxfp8")
    graph, state = nnx.split(expected if way == "door of its own" else module)
    apply = lambda state, x: nnx.merge(graph, state)(x)  # noqa: E731
    exempt = {"named scope": ["", "lm_head"], "door of its own": ["up", "lm_head"]}
    function = qjax.quantize(apply, "mxfp8", weights=0)
    report = qjax.report(function, state, X)
    assert [row.path for row in report.rows] == exempt.get(way, ["", ""])
    assert [row.quantized for row in report.rows] == [True, way == "neither"]
    assert jnp.array_equal(function(state, X), expected(X)) == (way != "neither")
    # A rule of one's own that matches nothing is told: listed, and raised where asked.
    own = qjax.Recipe([qjax.Rule("lm_head", qjax.Policy()), qjax.Rule(".*", MXFP8)])
    if way == "neither":
        with pytest.raises(ValueError, match="'lm_head', but no contraction matched"):
            qjax.report(qjax.quantize(apply, own, weights=0), state, X, strict=True)


def test_modules_stay_what_they_are():
    model = Model()
    quantized = qjax.quantize(model, "mxfp8")
    assert type(model) is Model
    assert isinstance(quantized.experts, Experts)
    assert type(quantized).__name__ == "Model"
    again = qjax.quantize(quantized, "mxfp4_rne")
    assert rows(qjax.report(again, X)) == rows(qjax.report(quantized, X))
    restored = pickle.loads(pickle.dumps(again))
    assert rows(qjax.report(restored, X)) == rows(qjax.report(again, X))
    assert type(restored) is type(again)
    assert len(type(again).__mro__) == len(type(quantized).__mro__)
