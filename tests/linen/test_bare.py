"""Layers of flax.linen without a seam: quantized when applied, untouched otherwise."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import qjax
from tests import draws
from tests.quick import quick

MXFP8 = qjax.Policy.all(qjax.Quantizer("mxfp8"))
IMAGE, SEQUENCE = draws.normal(0, (2, 6, 6, 4)), draws.normal(1, (2, 5, 8))

LAYERS = {
    "Einsum": (nn.Einsum((4, 3, 2), "...c,cde->...de"), IMAGE),
    "Conv": (nn.Conv(6, (3, 3), strides=2, feature_group_count=2), IMAGE),
    "Conv 1D": (nn.Conv(6, (3,), padding="CAUSAL", kernel_dilation=2), SEQUENCE),
    "ConvTranspose": (nn.ConvTranspose(3, (3, 3), strides=(2, 2)), IMAGE),
    "ConvLocal": (nn.ConvLocal(3, (3, 3)), IMAGE),
    "LSTM": (nn.RNN(nn.LSTMCell(3)), SEQUENCE),
    "optimized LSTM": (nn.RNN(nn.OptimizedLSTMCell(3)), SEQUENCE),
    "GRU both ways": (nn.Bidirectional(nn.RNN(nn.GRUCell(3)), nn.RNN(nn.MGUCell(3))), SEQUENCE),
    "ConvLSTM": (nn.ConvLSTMCell(3, (2, 2)), IMAGE),
}


def inputs(layer, x):
    carry = ((jnp.ones((*x.shape[:-1], 3)),) * 2,) if isinstance(layer, nn.ConvLSTMCell) else ()
    return (*carry, x)


@pytest.mark.parametrize("name", LAYERS)
def test_every_contraction_of_the_layer_is_quantized(name):
    layer, x = LAYERS[name]
    quantized = qjax.quantize(layer, MXFP8)
    given = inputs(layer, x)
    chex.assert_trees_all_equal(draws.init(quantized, *given), draws.init(layer, *given))
    report = qjax.report(quantized, *given, strict=True)
    assert report.rows
    rest = [row for row in report.rows if not row.quantized]
    assert len(rest) == (name == "ConvLocal"), str(report)
    assert all("moved, not computed" in row.why for row in rest)


@pytest.mark.parametrize("name", ["Einsum", "Conv", "ConvTranspose", "optimized LSTM"])
def test_the_linen_door_and_the_function_door_agree_bit_for_bit(name):
    layer, x = LAYERS[name]
    variables = draws.variables(layer, x)

    def grads(apply):
        loss = lambda v: jnp.cos(apply(v)).sum()  # noqa: E731
        return jax.jit(jax.value_and_grad(loss))(variables)

    linen = grads(lambda v: qjax.quantize(layer, MXFP8).apply(v, x))
    function = grads(qjax.quantize(lambda v: layer.apply(v, x), MXFP8))
    chex.assert_trees_all_equal(linen, function)
    plain = grads(lambda v: layer.apply(v, x))
    assert not jnp.array_equal(linen[0], plain[0])


def test_attend_of_an_embedding_is_a_contraction_and_its_lookup_is_none():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            table = nn.Embed(11, 32, name="table")
            return table.attend(table(tokens))

    tokens = jnp.arange(6)
    model = qjax.quantize(Model(), MXFP8)
    rows = qjax.report(model, tokens).rows
    assert [(row.path, row.op, row.quantized) for row in rows] == [("table", "dot_general", True)]


def test_layers_can_be_left_out_by_a_rule():
    rules = (qjax.Rule("", qjax.Policy(), ops="einsum"), qjax.Rule(".*", MXFP8, optional=True))
    recipe = qjax.Recipe(rules)
    layer, x = LAYERS["Einsum"]
    report = qjax.report(qjax.quantize(layer, recipe), x)
    assert not any(row.quantized for row in report.rows)


def test_noise_in_a_loop_needs_a_stream_that_reaches_it():
    recipe = qjax.recipes.get("mxfp4")
    variables = draws.variables(nn.RNN(nn.SimpleCell(3)), SEQUENCE)
    rngs = {"quant": jax.random.key(1)}
    unsplit = qjax.quantize(nn.RNN(nn.SimpleCell(3)), recipe)
    run = lambda v: unsplit.apply(v, SEQUENCE, rngs=rngs).sum()  # noqa: E731
    with pytest.raises(ValueError, match=r"'cell/[ih]'.*split_rngs=.*'quant': True"):
        jax.grad(run)(variables)
    chex.assert_tree_all_finite(quick(run, variables))  # Forward nothing is drawn.
    model = nn.RNN(nn.SimpleCell(3), split_rngs={"params": False, "quant": True})
    run = lambda v: qjax.quantize(model, recipe).apply(v, SEQUENCE, rngs=rngs).sum()  # noqa: E731
    chex.assert_tree_all_finite(quick(jax.grad(run), variables))
    function = qjax.quantize(nn.RNN(nn.SimpleCell(3)).apply, recipe, weights=0)
    run = lambda v: function(v, SEQUENCE, quant_key=rngs["quant"]).sum()  # noqa: E731
    chex.assert_tree_all_finite(quick(jax.grad(run), variables))
