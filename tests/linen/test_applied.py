"""Modules that another module applies by hand, with weights that it has computed."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import qjax
from qjax import Gemm, Policy, Quantizer, Recipe, Rule, operands
from qjax.rounding import Stochastic
from tests import draws

X = draws.normal(0, (2, 5, 8))
MXFP8 = Quantizer("mxfp8")
NOISY = Policy(fwd=Gemm(MXFP8, Quantizer("mxfp4", rounding=Stochastic(), scale="rceil")))
LSQ = Policy(fwd=Gemm(operands.LSQ(bits=4), operands.LSQ(bits=4)))


class Standardized(nn.Module):
    """A layer that computes with its own weights, minus their mean."""

    kind: str

    @nn.compact
    def __call__(self, x):
        if self.kind == "conv":
            alone = nn.Conv(8, (3,), use_bias=False, parent=None)
        else:
            alone = nn.Einsum((8, 8), "...c,cd->...d", use_bias=False, parent=None)
        kernel = self.param("kernel", lambda key: alone.init(key, x)["params"]["kernel"])
        return alone.apply({"params": {"kernel": kernel - jnp.mean(kernel)}}, x)


class Block(nn.Module):
    """A dense layer in a module that is applied by hand."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(8, use_bias=False, name="inner")(x)


class Host(nn.Module):
    """Names two layers with dots in them, one of which is applied by hand."""

    kind: str = "conv"

    @nn.compact
    def __call__(self, x):
        if self.kind == "block":
            given = self.param("kernel", nn.initializers.lecun_normal(), (8, 8))
            x = Block(parent=None).apply({"params": {"inner": {"kernel": given}}}, x)
        else:
            x = Standardized(self.kind, name="down_0.conv")(x)
        return nn.Dense(8, name="down_0.dense")(nn.relu(x))


PATHS = {
    "conv": ["down_0.conv/Conv", "down_0.dense"],
    "einsum": ["down_0.conv/Einsum", "down_0.dense"],
    "block": ["Block/inner", "down_0.dense"],
}


@pytest.mark.parametrize("kind", PATHS)
def test_they_stand_under_the_module_that_applies_them(kind):
    model = Host(kind)
    plain, low = (qjax.report(m, X) for m in (model, qjax.quantize(model, MXFP8)))
    assert [row.path for row in low.rows] == [row.path for row in plain.rows] == PATHS[kind]
    assert all(row.quantized for row in low.rows)
    named = Recipe((Rule(PATHS[kind][0], Policy()), Rule("down_0.dense", Policy.all(MXFP8))))
    rows = qjax.report(qjax.quantize(model, named), X, strict=True).rows
    assert [row.quantized for row in rows] == [False, True]


@pytest.mark.parametrize("kind", PATHS)
def test_they_compute_what_the_function_door_computes(kind):
    model = Host(kind)
    variables = draws.variables(model, X)
    low, function = qjax.quantize(model, MXFP8), qjax.quantize(lambda v: model.apply(v, X), MXFP8)
    loss = lambda apply: lambda v: jnp.cos(apply(v)).sum()  # noqa: E731
    linen, other = (
        jax.jit(jax.value_and_grad(loss(f)))(variables)
        for f in (lambda v: low.apply(v, X), function)
    )
    chex.assert_trees_all_equal(linen, other)
    assert linen[0] != loss(lambda v: model.apply(v, X))(variables)
    chex.assert_trees_all_equal(draws.init(low, X), draws.init(model, X))


@pytest.mark.parametrize("kind", PATHS)
def test_their_noise_follows_from_the_key_of_the_model(kind):
    model = qjax.quantize(Host(kind), NOISY)
    variables = draws.variables(model, X)
    run = lambda seed: model.apply(variables, X, rngs={"quant": jax.random.key(seed)})  # noqa: E731
    assert jnp.array_equal(run(0), run(0))
    assert not jnp.array_equal(run(0), run(1))


@pytest.mark.parametrize("kind", ["conv", "block"])
def test_what_they_learn_belongs_to_the_module_that_applies_them(kind):
    model = qjax.quantize(Host(kind), LSQ)
    variables = model.init(jax.random.key(0), X)
    params = variables["params"]
    held = params["down_0.conv"] if kind == "conv" else params
    name = "Conv" if kind == "conv" else "Block_inner"
    assert {f"{name}_fwd_lhs", f"{name}_fwd_rhs"} == set(held["quant"])
    grads = jax.grad(lambda v: jnp.cos(model.apply(v, X)).sum())(variables)
    held = grads["params"]["down_0.conv"] if kind == "conv" else grads["params"]
    assert all(jnp.all(leaf != 0) for leaf in jax.tree.leaves(held["quant"]))


def test_where_they_have_no_place_for_what_they_learn_an_error_says_so():
    model = qjax.quantize(Host("einsum"), LSQ)
    with pytest.raises(ValueError, match=r"'down_0\.conv/Einsum'.*applied by hand"):
        model.init(jax.random.key(0), X)


def test_a_module_that_shares_the_scope_of_the_model_is_its_own():
    class Shared(nn.Module):
        def setup(self):
            self.inner = nn.Dense(8)
            nn.share_scope(self, self.inner)

        def __call__(self, x):
            return self.inner(x)

    [row] = qjax.report(qjax.quantize(Shared(), MXFP8), X).rows
    assert row.quantized
    assert row.path == ""


def test_reports_of_float_and_quantized_models_name_a_shared_module_by_its_parameters():
    class Attending(nn.Module):
        table: nn.Module

        @nn.compact
        def __call__(self, x):
            return self.table.attend(x)

    class Model(nn.Module):
        def setup(self):
            self.table = nn.Embed(11, 8)
            self.decoder = Attending(self.table)

        def __call__(self, x):
            return self.decoder(x)

    for model in (Model(), qjax.quantize(Model(), MXFP8)):
        assert [row.path for row in qjax.report(model, X).rows] == ["table"]
