"""Methods that a class compiles once for all its modules compute as each model asks."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import Policy, Recipe, Rule
from tests import draws
from tests.linen.models import COARSE, X, forward


class Block(nn.Module):
    """`nn.jit` keeps its traces by class and fields, which models share."""

    @nn.jit
    @nn.compact
    def __call__(self, x):
        return nn.Dense(40)(x)


class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(40, name="out")(Block(name="block")(x))


class Unjitted(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(40, name="Dense_0")(x)


class Plain(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(40, name="out")(Unjitted(name="block")(x))


VARIABLES = draws.variables(Plain(), X)
RECIPES = {
    "float": Recipe([Rule(".*", Policy())]),
    "block": Recipe([Rule("block/.*", COARSE)]),
    "all": Recipe([Rule(".*", COARSE)]),
}


@pytest.mark.parametrize("first", RECIPES)
@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_the_model_that_comes_first_decides_for_no_other(first, jit):
    rows = 2 + list(RECIPES).index(first) + 3 * jit  # Shapes that no other case has traced.
    x = draws.normal(rows, (rows, 40))
    run = forward if jit else (lambda m, v, x: m.apply(v, x))
    names = [first, *(name for name in RECIPES if name != first)]
    out = {name: run(qjax.quantize(Model(), RECIPES[name]), VARIABLES, x) for name in names}
    for name, got in out.items():
        expected = run(qjax.quantize(Plain(), RECIPES[name]), VARIABLES, x)
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(run(Model(), VARIABLES, x), out["float"])
    assert not jnp.allclose(out["block"], out["float"], atol=1e-3)
    assert not jnp.allclose(out["block"], out["all"], atol=1e-3)


def test_a_method_that_was_compiled_is_not_compiled_again_and_its_rules_have_matched():
    traces = []

    class Counting(nn.Module):
        @nn.jit
        @nn.compact
        def __call__(self, x):
            traces.append(1)
            return nn.Dense(40)(x)

    class Holding(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Counting(name="block")(x)

    models = [qjax.quantize(Holding(), RECIPES["block"]) for _ in range(2)]
    variables = models[0].init(jax.random.key(0), X)
    del traces[:]
    for model in (*models, *models):
        model.apply(variables, X)  # Rules that were used in what is compiled are used.
    assert len(traces) == 1
    other = qjax.quantize(Holding(), Recipe([Rule("blok/.*", COARSE)]))
    with pytest.raises(ValueError, match=r"'blok/\.\*'"):
        other.apply(variables, X)


@jax.jit
def by_hand(x, w):
    return qjax.einsum("bi,ij->bj", x, w, policy=COARSE)


def test_reports_hear_what_was_compiled_before():
    model = qjax.quantize(Model(), RECIPES["block"])
    model.apply(VARIABLES, X)
    rows = {row.path: row.quantized for row in qjax.report(model, X).rows}
    assert rows == {"block/Dense_0": True, "out": False}
    assert not any(row.quantized for row in qjax.report(Model(), X).rows)
    by_hand(X, X.T)
    for _ in range(2):
        (row,) = qjax.report(by_hand, X, X.T).rows
        assert row.formats == ("mxfp4",) * 6
