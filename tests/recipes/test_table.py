"""What a report prints, and what it costs to make one."""

import csv
import io
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import Gemm, Policy, Recipe, Rule, operands
from qjax.recipes import fp8_delayed
from qjax.recipes.registry import LOGITS

X = jnp.ones((4, 32))
MIXED = Recipe(
    [
        Rule("up|down", Policy(fwd=Gemm("mxfp8", "mxfp4")), name="up|down"),
        Rule("out", Policy(fwd=Gemm("int8_channel", "int8_channel"))),
        Rule("lm_head", Policy()),
    ]
)


class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
        for name, size in (("up", 64), ("down", 32), ("out", 32), ("lm_head", 64)):
            x = nn.Dense(size, name=name)(x)
        return x


@pytest.fixture(scope="module")
def report():
    return qjax.report(qjax.quantize(Model(), MIXED), X, strict=True)


def test_totals_and_shares_are_of_the_forward_flops(report):
    sizes = {"up": 32 * 64, "down": 64 * 32, "out": 32 * 32, "lm_head": 32 * 64}
    total = sum(sizes.values())
    assert report.flops == 2 * 4 * total
    expected = {
        "mxfp8 x mxfp4": 2 * 32 * 64 / total,
        "-": 32 * 64 / total,
        "int8_channel x int8_channel": 32 * 32 / total,
    }
    assert report.shares == pytest.approx(expected)
    assert report.quantized_share == pytest.approx(1 - 32 * 64 / total)
    assert "3 of 4 contractions quantized" in str(report)


def test_csv_reads_back_with_bits_per_operand(report):
    rows = list(csv.DictReader(io.StringIO(report.to_csv())))
    assert [row["path"] for row in rows] == ["up", "down", "out", "lm_head"]
    assert rows[0]["bits"].split()[:2] == ["8.25", "4.25"]
    assert sum(int(row["flops"]) for row in rows) == report.flops
    assert rows[3]["why"] == "high precision by rule 'lm_head'"


def test_every_line_of_markdown_has_as_many_cells(report):
    lines = report.to_markdown().splitlines()
    assert len({line.replace(r"\|", "").count("|") for line in lines}) == 1
    assert r"rule 'up\|down'" in lines[2]


def test_packed_weights_are_rows_that_say_so():
    variables = qjax.pack(Model().init(jax.random.key(0), X), MIXED)
    found = qjax.report(qjax.quantize(Model(), MIXED), X, variables=variables)
    assert [row.packed for row in found.rows] == [("rhs",)] * 3 + [()]
    assert found.rows[0].formats[:2] == ("mxfp8", "mxfp4")
    assert "3 with packed weights" in str(found)
    assert found.to_csv().count("rhs packed") == 3


INT8, IN_FP8 = qjax.Quantizer("int8_channel"), fp8_delayed.policy(length=4)


@pytest.mark.parametrize(
    ("policy", "saved"),
    [
        (Policy(Gemm(INT8, INT8)), set()),
        (Policy(Gemm(INT8, INT8), Gemm(None, INT8)), set()),
        (Policy(Gemm(INT8, INT8), residuals="codes"), {"drhs.lhs", "dlhs.rhs"}),
        (Policy(Gemm(INT8, INT8), Gemm(INT8, INT8), residuals="requantize"), {"drhs.lhs"}),
        (Policy(Gemm(None, operands.LSQ(bits=4))), {"dlhs.rhs"}),
        (IN_FP8, {"drhs.lhs", "dlhs.rhs"}),
    ],
)
def test_an_operand_that_the_backward_pass_reads_rounded_shows_its_type(policy, saved):
    layer = qjax.quantize(nn.Dense(16, use_bias=False), policy)
    row = qjax.report(layer, X).rows[0]
    assert set(row.saved) == saved
    cells = row.cells()
    for again, once in (("drhs.lhs", "fwd.lhs"), ("dlhs.rhs", "fwd.rhs")):
        if again in saved:
            assert cells[again] == cells[once] + " (saved)"
            assert cells[again].split(" ")[0] in str(qjax.report(layer, X))
    # The gradient of the identity is the kernel as the backward pass read it.
    variables = layer.init(jax.random.key(0), X)
    pull = jax.vjp(lambda x: layer.apply(variables, x), jnp.ones((16, 32)))[1]
    plain = np.array_equal(pull(jnp.eye(16))[0].T, variables["params"]["kernel"])
    assert plain == (policy.dlhs.rhs is None and "dlhs.rhs" not in saved)


def test_a_screen_shows_bits_and_says_what_rows_have_in_common_once(report):
    text = str(report)
    assert "mxfp8 8.25, mxfp4 4.25" in text
    assert text.count("rule 'up|down'") == 1
    lines = text.splitlines()
    assert lines[2].split()[-1] == lines[3].split()[-1] == "[1]"
    assert "16.4k" in lines[2]
    long = Policy(fwd=Gemm("e2m1fn:e8m0_t32_t32", None))
    shown = str(qjax.report(qjax.quantize(Model(), Recipe([Rule(".*", long)])), X))
    assert shown.count(long.fwd.lhs.qtype.name) == (1 if len(long.fwd.lhs.qtype.name) > 16 else 4)


def test_a_report_lists_rules_that_match_nothing_and_says_nothing_else():
    recipe = Recipe([Rule("nowhere", Policy.all(qjax.Quantizer("mxfp8")))])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = qjax.report(qjax.quantize(Model(), recipe), X)
    assert "'nowhere'" in str(found)
    assert len(found.unmatched) == 1
    with pytest.raises(ValueError, match="'nowhere'"):
        found.check()


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        y = nn.MultiHeadDotProductAttention(32, name="attention")(nn.RMSNorm()(x))
        gate = nn.Dense(11008, use_bias=False, name="gate")(x)
        y += nn.Dense(4096, use_bias=False, name="down")(gate)
        return x + y, None


class Large(nn.Module):
    """A language model of seven thousand million parameters."""

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(32000, 4096, name="embed")(tokens)
        layers = nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=32)
        x, _ = layers(name="layers")(x, None)
        return nn.Dense(32000, name="lm_head")(x)


def test_a_model_too_large_to_run_is_reported_from_shapes_alone():
    before = sum(x.nbytes for x in jax.live_arrays())
    tokens = jax.ShapeDtypeStruct((1, 2048), jnp.int32)
    found = qjax.report(qjax.quantize(Large(), "mxfp8"), tokens, strict=True)
    matrices = 4 * 4096 * 4096 + 2 * 4096 * 11008
    attention = 2 * 2048 * 4096
    assert found.flops == 2 * 2048 * (32 * (matrices + attention) + 4096 * 32000)
    assert sum(x.nbytes for x in jax.live_arrays()) - before < 1 << 20


class Speaker(nn.Module):
    """Draws from a stream of its own, as decoders that sample do."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8)(x)
        return x + jax.random.uniform(self.make_rng("sample"), x.shape)


def test_streams_of_other_names_can_be_given():
    model = qjax.quantize(Speaker(), "int8")
    rngs = {"sample": jax.random.key(0)}
    assert qjax.report(model, X, rngs=rngs, strict=True).rows[0].quantized
    variables = Speaker().init({"params": jax.random.key(0), **rngs}, X)
    assert qjax.pack(variables, "int8", model=Speaker(), inputs=(X,), rngs=rngs) is not None


@pytest.mark.parametrize(
    ("path", "exempt"),
    [
        ("decoder/logitdense", True),
        ("decoder/logits_dense", True),
        ("lm_head", True),
        ("head/Dense_0", True),
        ("embed_tokens", True),
        # Tables that make logits too, as examples of Flax, BERT and GPT-2 name them.
        ("shared_embedding", True),
        ("transformer/word_embeddings", True),
        ("transformer/wte", True),
        ("time_embedding/mlp/Dense_0", False),
        ("classifier", True),
        # A classifier with attention and a network of its own inside.
        ("classifier/attention/keys", False),
        ("classifier/mlp/intermediate", False),
        ("classifier/mlp/output_layer", True),
        ("heads/query", False),
    ],
)
def test_the_layer_that_makes_logits_stays_in_high_precision_and_no_more(path, exempt):
    assert LOGITS.matches(path, "dot_general") == exempt
