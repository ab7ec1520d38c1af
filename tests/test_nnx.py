"""The nnx door: seams by paths, no forward pass, shared arrays, and nnx's own transformations."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import qjax
from tests.draws import module, normal

TOKENS = jnp.arange(6)[None]


class Block(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(16, rngs=rngs)
        self.attn = nnx.MultiHeadAttention(2, 16, decode=False, rngs=rngs)
        self.up = nnx.Linear(16, 32, rngs=rngs)
        self.down = nnx.Linear(32, 16, rngs=rngs)

    def __call__(self, x):
        x = x + self.attn(self.norm(x))
        return x + self.down(jax.nn.relu(self.up(x)))


class Model(nnx.Module):
    def __init__(self, rngs):
        self.tokens = nnx.Embed(11, 16, rngs=rngs)
        self.blocks = nnx.List([Block(rngs) for _ in range(2)])
        self.mix = nnx.Einsum("...c,cd->...d", (16, 16), rngs=rngs)
        self.lora = nnx.LoRA(16, 2, 16, base_module=nnx.Linear(16, 16, rngs=rngs), rngs=rngs)
        self.rnn = nnx.RNN(nnx.OptimizedLSTMCell(16, 16, rngs=rngs), rngs=rngs)
        self.head = nnx.Linear(16, 11, rngs=rngs)

    def __call__(self, tokens):
        x = self.tokens(tokens)
        for block in self.blocks:
            x = block(x)
        x = self.rnn(self.lora(self.mix(x)))
        return self.head(x) + self.tokens.attend(x)


class Small(nnx.Module):
    """What is compiled here: every kind of layer is in `Model`, which is only traced."""

    def __init__(self, rngs):
        self.tokens = nnx.Embed(11, 16, rngs=rngs)
        self.blocks = nnx.List([nnx.Linear(16, 16, rngs=rngs) for _ in range(2)])
        self.lora = nnx.LoRA(16, 2, 11, base_module=nnx.Linear(16, 11, rngs=rngs), rngs=rngs)

    def __call__(self, tokens):
        x = self.tokens(tokens)
        for block in self.blocks:
            x = jax.nn.relu(block(x))
        return self.lora(x)


@pytest.fixture(scope="module")
def model():
    return module(Model)


@pytest.fixture(scope="module")
def small():
    return module(Small)


def loss(model):
    return jnp.square(model(TOKENS)).sum()


value_and_grad = nnx.jit(nnx.value_and_grad(loss))


def test_every_layer_is_quantized_by_its_path_and_the_head_is_not(model):
    report = qjax.report(qjax.quantize(model, "mxfp8"), TOKENS, strict=True)
    quantized = {row.path: row.quantized for row in report.rows}
    inside = [
        "attn/query",
        "attn/key",
        "attn/value",
        "attn/qk",
        "attn/av",
        "attn/out",
        "up",
        "down",
    ]
    expected = {f"blocks/{i}/{name}" for i in range(2) for name in inside}
    expected |= {"mix", "lora", "lora/base_module", "rnn/cell/dense_i", "rnn/cell/dense_h"}
    assert {path for path, yes in quantized.items() if yes} - {"tokens"} == expected
    assert quantized["head"] is False


def test_the_given_module_stays_as_it_is_and_shares_its_arrays(small):
    before = value_and_grad(small)
    quantized = qjax.quantize(small, "mxfp4_rne")
    assert quantized is not small
    pairs = zip(jax.tree.leaves(nnx.state(small)), jax.tree.leaves(nnx.state(quantized)))
    assert all(one is other for one, other in pairs)
    assert not jnp.array_equal(value_and_grad(quantized)[0], before[0])
    chex.assert_trees_all_equal(value_and_grad(small), before)


def test_quantizing_runs_no_forward_pass():
    class Silent(nnx.Module):
        def __init__(self):
            self.linear = nnx.Linear(4, 4, rngs=nnx.Rngs(0))

        def __call__(self, x):
            raise AssertionError("a forward pass was run")

    assert isinstance(qjax.quantize(Silent(), "mxfp8"), Silent)


def test_split_merge_jit_and_the_optimizer_compose(small):
    quantized = qjax.quantize(small, "mxfp8")
    graph, state = nnx.split(quantized)
    chex.assert_trees_all_equal(nnx.jit(loss)(nnx.merge(graph, state)), nnx.jit(loss)(quantized))
    assert hash(graph) == hash(nnx.split(qjax.quantize(small, "mxfp8"))[0])
    optimizer = nnx.Optimizer(quantized, optax.sgd(1e-3), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        value, grads = nnx.value_and_grad(loss)(model)
        optimizer.update(model, grads)
        return value

    first, second = step(quantized, optimizer), step(quantized, optimizer)
    assert second < first


def test_stochastic_layers_draw_from_streams_of_their_own(small):
    with pytest.raises(ValueError, match=r"of '[a-z]+/\w+' draws .*`rngs=nnx.Rngs\(quant=0\)`"):
        value_and_grad(qjax.quantize(small, "mxfp4"))
    quantized = qjax.quantize(small, "mxfp4", rngs=nnx.Rngs(quant=0))
    again = qjax.quantize(small, "mxfp4", rngs=0)
    first, second = value_and_grad(quantized)[1], value_and_grad(quantized)[1]
    kernel = lambda grads: grads["blocks"][0]["kernel"][...]  # noqa: E731
    assert not jnp.array_equal(kernel(first), kernel(second))
    chex.assert_tree_all_finite(kernel(value_and_grad(again)[1]))


@pytest.mark.parametrize("float_first", [True, False])
def test_float_and_quantized_never_affect_each_other(model, float_first):
    quantized = qjax.quantize(model, "mxfp4_rne")
    run = nnx.jit(lambda m, t: m(t))
    tokens = TOKENS[:, : 4 + float_first]
    order = [model, quantized] if float_first else [quantized, model]
    out = {id(m): run(m, tokens) for m in order}
    chex.assert_trees_all_equal(out[id(model)], run(nnx.clone(model), tokens))
    assert jnp.abs(out[id(model)] - out[id(quantized)]).max() > 1e-3


class Stack(nnx.Module):
    """Layers of stacked parameters, which `nnx.scan` runs one after another."""

    def __init__(self):
        @nnx.split_rngs(splits=3)
        @nnx.vmap(axis_size=3)
        def make(rngs):
            return nnx.Linear(16, 16, rngs=rngs)

        self.layers = make(nnx.Rngs(0))

    def __call__(self, x):
        run = nnx.scan(lambda x, layer: (jax.nn.relu(layer(x)), None))
        return run(x, self.layers)[0]


def test_stacked_layers_draw_noise_of_their_own():
    quantized = qjax.quantize(Stack(), "mxfp4", rngs=nnx.Rngs(quant=0))
    x = normal(0, (2, 16))
    grads = [nnx.grad(lambda m: m(x).sum())(quantized)["layers"]["kernel"][...] for _ in range(2)]
    assert grads[0].shape == (3, 16, 16)
    assert not jnp.array_equal(*grads)
    (stream,) = quantized.layers.dot_general.streams.streams
    assert stream.count[...].tolist() == [2, 2, 2]
    assert len({tuple(k) for k in jax.random.key_data(stream.key[...]).tolist()}) == 3


class Dropping(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(16, 16, rngs=rngs)
        self.dropout = nnx.Dropout(0.5)

    def __call__(self, x, *, rngs):
        return self.dropout(self.linear(x), rngs=rngs)


def test_streams_given_by_name_are_read_and_not_moved_on():
    plain, x, rngs = module(Dropping), normal(0, (2, 16)), nnx.Rngs(0)
    [row] = qjax.report(qjax.quantize(plain, "mxfp8"), x, rngs=rngs).rows
    assert row.quantized
    qjax.pack(plain, "mxfp8", inputs=(x,), rngs=rngs)
    qjax.capture(plain, None, [x], rngs=rngs)
    assert rngs.default.count[...] == 0


class ByHand(nnx.Module):
    def __init__(self, rngs):
        self.kernel = nnx.Param(rngs.params.normal((16, 16)))

    def __call__(self, x):
        return x @ self.kernel


def test_where_no_layer_contracts_the_error_says_how_products_by_hand_are_quantized():
    with pytest.raises(ValueError, match=r"no layer contracts .*in the function that applies it"):
        qjax.quantize(module(ByHand), "mxfp8")
