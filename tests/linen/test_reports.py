"""Reports of linen models: every contraction, what was missed, and rules that match nothing."""

import flax.linen as nn
import jax.numpy as jnp
import pytest

import qjax
from qjax import Policy, Recipe, Rule
from tests.linen.models import COARSE, MLP, MXFP8, VARIABLES, Block, Parent, Raw, X, lifted


class Attend(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Embed(11, 32, name="embed")(x)
        mask = nn.make_causal_mask(jnp.ones(x.shape[:-1]))
        x = nn.MultiHeadDotProductAttention(num_heads=2, name="attn")(x, mask=mask)
        x = nn.DenseGeneral((4, 8), name="wide")(x)
        x = nn.DenseGeneral(32, axis=(-2, -1), name="narrow")(x)
        return nn.Dense(11, name="lm_head")(x)


TOKENS = jnp.arange(10).reshape(2, 5) % 11


def test_report_lists_every_contraction_and_what_is_left_in_high_precision():
    report = qjax.report(qjax.quantize(Attend(), "mxfp8"), TOKENS, strict=True)
    rows = {row.path: row for row in report.rows}
    layers = ["attn/query", "attn/key", "attn/value", "attn/out", "wide", "narrow"]
    assert set(rows) == {*layers, "attn/qk", "attn/av", "lm_head"}
    assert len(report.rows) == 9
    for path, row in rows.items():
        assert row.quantized == (path != "lm_head")
    assert "high precision by rule 'logits and embeddings'" in rows["lm_head"].why
    assert rows["narrow"].formats == ("mxfp8",) * 6
    assert rows["narrow"].bits == (8.25,) * 6
    assert rows["wide"].flops == 2 * 2 * 5 * 32 * 32
    assert rows["attn/qk"].op == "einsum"
    assert "lm_head" in str(report)
    assert report.to_csv().count("\n") == 10
    assert report.to_markdown().splitlines()[2].startswith("| attn/query | dot_general |")


def test_report_of_a_float_model_lists_the_same_contractions():
    report = qjax.report(Attend(), TOKENS)
    assert len(report.rows) == 9
    assert not any(row.quantized for row in report.rows)


def test_report_counts_the_turns_of_a_scan():
    report = qjax.report(lifted(qjax.quantize(Block, "mxfp8"), "scan"), X)
    assert [row.times for row in report.rows] == [3, 3]
    assert report.rows[0].flops == 3 * 2 * 6 * 40 * 48
    assert all(row.quantized for row in report.rows)


def test_strict_raises_where_a_raw_contraction_was_asked_for():
    model = qjax.quantize(Raw(), Policy.all(MXFP8))
    report = qjax.report(model, X)
    assert sum(row.missed for row in report.rows) == 3
    with pytest.raises(ValueError, match=r"Not quantized as asked.*\n.*call qjax\."):
        qjax.report(model, X, strict=True)


def test_a_rule_that_matches_nothing_is_reported():
    recipe = Recipe([Rule("decodr/.*", COARSE), Rule(".*up", Policy.all(MXFP8))])
    model = qjax.quantize(MLP(), recipe)
    with pytest.warns(UserWarning, match=r"Rule 1.*'decodr/\.\*'.*no contraction.*'up', 'down'"):
        model.apply(VARIABLES, X)
    with pytest.raises(ValueError, match=r"Rule 1 of recipe 'custom'"):
        qjax.report(model, X, strict=True)


def test_a_recipe_that_matches_nothing_at_all_raises():
    model = qjax.quantize(MLP(), Recipe([Rule("nowhere", COARSE)]))
    with pytest.raises(ValueError, match=r"'nowhere'.*'up', 'down'.*optional=True"):
        model.apply(VARIABLES, X)


def test_the_innermost_decoration_decides():
    inner = qjax.quantize(MLP, "mxfp4_rne")
    outer = qjax.quantize(Parent, "mxfp8")(inner)
    rows = {row.path: row for row in qjax.report(outer, X).rows}
    assert rows["plain/up"].formats[0] == "mxfp8"
    assert rows["asked/up"].formats[0] == "mxfp4"


def test_quantizing_again_replaces_the_recipe():
    model = qjax.quantize(qjax.quantize(MLP(), "mxfp8"), "mxfp4_rne")
    assert {row.formats[0] for row in qjax.report(model, X).rows} == {"mxfp4"}
