"""Every layer of flax.linen and flax.nnx that contracts: all of its contractions are quantized.

Reports only trace, so that the whole of both libraries is cheap. A layer that Flax adds fails the
first test until it is listed here, as one that contracts or as one that does not.
"""

import flax.linen as nn
import jax
import pytest
from flax import nnx

import qjax
from tests.draws import module

MXFP8 = qjax.Policy.all(qjax.Quantizer("mxfp8"))
IMAGE = jax.ShapeDtypeStruct((2, 6, 6, 4), "float32")
SEQUENCE = jax.ShapeDtypeStruct((2, 5, 8), "float32")
ROWS = jax.ShapeDtypeStruct((2, 8), "float32")
CARRY = jax.ShapeDtypeStruct((2, 3), "float32")
MAPS = jax.ShapeDtypeStruct((2, 6, 6, 3), "float32")
ATTENTION = ["query", "key", "value", "qk", "av", "out"]


class Attend(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Embed(11, 8, name="table").attend(x)


class NnxAttend(nnx.Module):
    def __init__(self, rngs):
        self.table = nnx.Embed(11, 8, rngs=rngs)

    def __call__(self, x):
        return self.table.attend(x)


def gates(letters):
    return [side + letter for letter in letters for side in "ih"]


# The layer (of nnx, what makes it), its inputs, and the paths of its contractions.
LINEN = {
    "Dense": (nn.Dense(4), [ROWS], [""]),
    "DenseGeneral": (nn.DenseGeneral((4, 3), axis=(-2, -1)), [SEQUENCE], [""]),
    "Einsum": (nn.Einsum((4, 3, 2), "...c,cde->...de"), [IMAGE], [""]),
    "Conv": (nn.Conv(6, (3, 3)), [IMAGE], [""]),
    # Its patches are taken by a convolution too, which moves them and rounds nothing.
    "ConvLocal": (nn.ConvLocal(3, (3, 3)), [IMAGE], ["", ""]),
    "ConvTranspose": (nn.ConvTranspose(3, (3, 3)), [IMAGE], [""]),
    "Embed": (Attend(), [ROWS], ["table"]),
    "MultiHeadDotProductAttention": (nn.MultiHeadDotProductAttention(2), [SEQUENCE], ATTENTION),
    "MultiHeadAttention": (nn.MultiHeadAttention(2), [SEQUENCE], ATTENTION),
    "SelfAttention": (nn.SelfAttention(2), [SEQUENCE], ATTENTION),
    "LSTMCell": (nn.LSTMCell(3), [(CARRY, CARRY), ROWS], gates("ifgo")),
    "OptimizedLSTMCell": (nn.OptimizedLSTMCell(3), [(CARRY, CARRY), ROWS], ["", ""]),
    "GRUCell": (nn.GRUCell(3), [CARRY, ROWS], gates("rzn")),
    "MGUCell": (nn.MGUCell(3), [CARRY, ROWS], gates("fn")),
    "SimpleCell": (nn.SimpleCell(3), [CARRY, ROWS], gates([""])),
    "ConvLSTMCell": (nn.ConvLSTMCell(3, (2, 2)), [(MAPS, MAPS), IMAGE], ["ih", "hh"]),
    "RNN": (nn.RNN(nn.SimpleCell(3)), [SEQUENCE], ["cell/i", "cell/h"]),
    "Bidirectional": (
        nn.Bidirectional(nn.RNN(nn.SimpleCell(3)), nn.RNN(nn.OptimizedLSTMCell(3))),
        [SEQUENCE],
        ["forward_rnn/cell/i", "forward_rnn/cell/h", *["backward_rnn/cell"] * 2],
    ),
    "WeightNorm": (nn.WeightNorm(nn.Dense(4)), [ROWS], ["layer_instance"]),
}
CELL = ["dense_i", "dense_h"]


def rnn(rngs):
    return nnx.RNN(nnx.SimpleCell(8, 3, rngs=rngs), rngs=rngs)


NNX = {
    "Linear": (lambda rngs: nnx.Linear(8, 4, rngs=rngs), [ROWS], [""]),
    "LinearGeneral": (
        lambda rngs: nnx.LinearGeneral((5, 8), (4, 3), axis=(-2, -1), rngs=rngs),
        [SEQUENCE],
        [""],
    ),
    "Einsum": (lambda rngs: nnx.Einsum("...c,cd->...d", (8, 4), rngs=rngs), [SEQUENCE], [""]),
    "Conv": (lambda rngs: nnx.Conv(4, 6, (3, 3), rngs=rngs), [IMAGE], [""]),
    "ConvTranspose": (lambda rngs: nnx.ConvTranspose(4, 6, (3, 3), rngs=rngs), [IMAGE], [""]),
    "Embed": (lambda rngs: NnxAttend(rngs), [ROWS], ["table"]),
    "MultiHeadAttention": (
        lambda rngs: nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs),
        [SEQUENCE],
        ATTENTION,
    ),
    "LoRA": (
        lambda rngs: nnx.LoRA(8, 2, 4, base_module=nnx.Linear(8, 4, rngs=rngs), rngs=rngs),
        [ROWS],
        ["", "", "base_module"],
    ),
    "LoRALinear": (
        lambda rngs: nnx.LoRALinear(8, 4, lora_rank=2, rngs=rngs),
        [ROWS],
        ["", "lora", "lora"],
    ),
    "LSTMCell": (
        lambda rngs: nnx.LSTMCell(8, 3, rngs=rngs),
        [(CARRY, CARRY), ROWS],
        ["ii", "hi", "if_", "hf", "ig", "hg", "io", "ho"],
    ),
    "OptimizedLSTMCell": (
        lambda rngs: nnx.OptimizedLSTMCell(8, 3, rngs=rngs),
        [(CARRY, CARRY), ROWS],
        CELL,
    ),
    "GRUCell": (lambda rngs: nnx.GRUCell(8, 3, rngs=rngs), [CARRY, ROWS], CELL),
    "SimpleCell": (lambda rngs: nnx.SimpleCell(8, 3, rngs=rngs), [CARRY, ROWS], CELL),
    "RNN": (lambda rngs: rnn(rngs), [SEQUENCE], [f"cell/{part}" for part in CELL]),
    "Bidirectional": (
        lambda rngs: nnx.Bidirectional(rnn(rngs), rnn(rngs), rngs=rngs),
        [SEQUENCE],
        [f"{way}_rnn/cell/{part}" for way in ("forward", "backward") for part in CELL],
    ),
    "WeightNorm": (
        nnx.WeightNorm(module(lambda rngs: nnx.Linear(8, 4, rngs=rngs)), rngs=nnx.Rngs(0)),
        [ROWS],
        ["layer_instance"],
    ),
}
DEPRECATED = {
    "SelfAttention": pytest.mark.filterwarnings("ignore:SelfAttention will be:DeprecationWarning")
}
# Normalizations, containers and activations: nothing in them is a product of two tensors.
WITHOUT = {"BatchNorm", "Dropout", "GroupNorm", "InstanceNorm", "LayerNorm", "Module", "PReLU"}
WITHOUT |= {"RMSNorm", "RNNCellBase", "Sequential", "Dict", "List"}
# Flax's own float8 operations: choices of the user, which reports show.
WITHOUT |= {"Fp8DirectDotGeneralOp", "Fp8DotGeneral", "Fp8DotGeneralOp", "Fp8Einsum"}
WITHOUT |= {"NANOOFp8DotGeneralOp"}
# Its power iteration is a product with a vector of statistics: see the last test.
ESTIMATES = {"SpectralNorm"}


@pytest.mark.parametrize(
    ("library", "kind", "layers"), [(nn, nn.Module, LINEN), (nnx, nnx.Module, NNX)]
)
def test_every_layer_of_the_library_is_here(library, kind, layers):
    public = {name for name, value in vars(library).items() if isinstance(value, type)}
    modules = {name for name in public if issubclass(getattr(library, name), kind)}
    assert modules - set(layers) - WITHOUT - ESTIMATES == set()


@pytest.mark.parametrize(
    ("layer", "inputs", "paths"),
    [
        pytest.param(*layers[name], id=f"{library}.{name}", marks=DEPRECATED.get(name, ()))
        for library, layers in (("linen", LINEN), ("nnx", NNX))
        for name in layers
    ],
)
def test_all_contractions_are_quantized_and_none_is_counted_twice(layer, inputs, paths):
    layer = layer if isinstance(layer, nn.Module | nnx.Module) else module(layer)
    plain = qjax.report(layer, *inputs)
    report = qjax.report(qjax.quantize(layer, MXFP8), *inputs, strict=True)
    rest = [row for row in report.rows if not row.quantized]
    assert len(rest) == isinstance(layer, nn.ConvLocal)
    assert all("moved, not computed" in row.why and not row.missed for row in rest)
    assert sorted(row.path for row in report.rows) == sorted(paths), str(report)
    assert len(plain.rows) == len(report.rows)
    assert sum(row.flops for row in plain.rows) == sum(row.flops for row in report.rows)
    assert not any(row.quantized for row in plain.rows)


def spectral():
    rngs = nnx.Rngs(0)
    layer = nnx.Linear(8, 4, rngs=rngs)
    return [
        (nn.SpectralNorm(nn.Dense(4)), "layer_instance"),
        (nnx.SpectralNorm(layer, rngs=rngs), "layer_instance"),
    ]


@pytest.mark.parametrize(("layer", "path"), spectral(), ids=["linen", "nnx"])
def test_the_power_iteration_of_a_spectral_norm_is_reported_and_stays_in_float(layer, path):
    """It estimates a norm of the weights and is no layer: the layer inside is quantized."""
    rows = qjax.report(qjax.quantize(layer, MXFP8), ROWS, update_stats=True).rows
    assert [row.path for row in rows if row.quantized] == [path]
    rest = [row for row in rows if not row.quantized]
    assert rest
    assert all(row.missed and "written by hand" in row.why for row in rest)
