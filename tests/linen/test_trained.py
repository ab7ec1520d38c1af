"""Learned values and states of operands among the variables of a linen model."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import qjax
from qjax import Gemm, Policy, Quantizer, Recipe, Rule, calibration, operands
from qjax.train import LinenTask, Step
from tests.draws import init, normal, variables
from tests.quick import quick

X = normal(1, (6, 8))
LSQ = Policy(fwd=Gemm(operands.LSQ(bits=4), operands.LSQ(bits=4, granularity="channel")))
DELAYED = Quantizer("int4:float32", calibration=calibration.Delayed(length=3))
REMEMBERING = Policy(fwd=Gemm(DELAYED, None))


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(8, name="down")(nn.relu(nn.Dense(12, name="up")(x)))


class Attention(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.MultiHeadDotProductAttention(2, name="attn")(x[None])


class SetUp(nn.Module):
    def setup(self):
        self.layer = nn.Dense(8)

    def __call__(self, x):
        return self.layer(self.layer(x))


def shapes(tree):
    return {jax.tree_util.keystr(p, simple=True, separator="/"): np.shape(x)
            for p, x in jax.tree_util.tree_leaves_with_path(tree)}  # fmt: skip


def test_init_adds_learned_values_under_the_layer_and_leaves_the_others():
    plain, made = (init(model, X) for model in (MLP(), qjax.quantize(MLP(), LSQ)))
    added = {k: v for k, v in shapes(made).items() if "/quant/" in k}
    assert added == {
        "params/up/quant/fwd_lhs/step": (),
        "params/up/quant/fwd_rhs/step": (1, 12),
        "params/down/quant/fwd_lhs/step": (),
        "params/down/quant/fwd_rhs/step": (1, 8),
    }
    for layer in ("up", "down"):
        made["params"][layer].pop("quant")
    chex.assert_trees_all_equal(made, plain)


@pytest.mark.parametrize("kind", [MLP, Attention, SetUp])
def test_training_moves_the_learned_values(kind):
    model = qjax.quantize(kind(), LSQ)
    made = init(model, X)
    grads = quick(jax.grad(lambda v: jnp.sum(jnp.sin(model.apply(v, X)))), made)
    steps = {k: v for k, v in shapes(grads).items() if "/quant/" in k}
    assert len(steps) == {MLP: 4, Attention: 12, SetUp: 2}[kind]
    leaves = jax.tree_util.tree_leaves_with_path(grads)
    assert all(np.any(np.asarray(g) != 0) for p, g in leaves if "quant" in str(p))


def test_a_layer_that_is_called_twice_keeps_one_history():
    model = qjax.quantize(SetUp(), REMEMBERING)
    made = init(model, X)
    assert shapes(made["quant"]) == {"layer/fwd_lhs": (3, 1, 1)}
    _, after = model.apply(made, X, mutable=["quant"])
    kernel, bias = (made["params"]["layer"][n] for n in ("kernel", "bias"))
    first = qjax.cast(X, "int4:float32") @ kernel + bias
    expected = [jnp.max(jnp.abs(first)), jnp.max(jnp.abs(X)), 0]
    np.testing.assert_allclose(jnp.ravel(after["quant"]["layer"]["fwd_lhs"]), expected, rtol=1e-5)


def lifted(block, how, axes):
    class Stack(nn.Module):
        @nn.compact
        def __call__(self, x):
            inner = nn.remat(block) if "remat" in how else nn.jit(block) if "jit" in how else block
            if "scan" not in how:
                for i in range(3):
                    x, _ = inner(name=f"b{i}")(x)
                return x
            scan = nn.scan(inner, variable_axes=axes, split_rngs={"params": True}, length=3)
            return scan(name="layers")(x, None)[0]

    return Stack()


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        return x + MLP(name="mlp")(x), None


BOTH = Policy(fwd=Gemm(DELAYED, operands.LSQ(bits=4)))


@pytest.mark.parametrize("how", ["remat", "jit", "scan", "scan of remat"])
def test_inside_lifts_values_and_states_are_those_of_a_loop(how):
    axes = {"params": 0, "quant": 0}
    loop, other = (lifted(qjax.quantize(Block, BOTH), h, axes) for h in ("loop", how))
    start = init(loop, X)

    def stacked(collection):
        if "scan" not in how:
            return collection
        return {"layers": jax.tree.map(lambda *a: jnp.stack(a), *collection.values())}

    given = {name: stacked(collection) for name, collection in start.items()}
    chex.assert_trees_all_equal_shapes(jax.eval_shape(other.init, jax.random.key(0), X), given)

    def run(model, params, quant):
        def loss(params):
            out, after = model.apply({"params": params, "quant": quant}, X, mutable=["quant"])
            return jnp.sum(out**2), after["quant"]

        return quick(jax.grad(loss, has_aux=True), params)

    grads, states = run(loop, start["params"], start["quant"])
    got = run(other, given["params"], given["quant"])
    chex.assert_trees_all_close(got, (stacked(grads), stacked(states)), rtol=1e-4, atol=1e-5)
    assert all(np.all(np.asarray(s)[..., 0, 0, 0] > 0) for s in jax.tree.leaves(got[1]))


class Bare(nn.Module):
    """Layers without a seam, which are traced and rewritten."""

    @nn.compact
    def __call__(self, x):
        embed = nn.Embed(8, 8, name="embed")
        x = nn.Einsum((8, 8), "bd,de->be", name="mix")(x)
        x = nn.ConvTranspose(8, (3,), name="up")(x[None])
        x = nn.RNN(nn.OptimizedLSTMCell(8), variable_axes={"quant": 0}, name="rnn")(x)
        return embed.attend(x)


def test_layers_without_a_seam_learn_and_remember():
    policy = Policy(fwd=Gemm(DELAYED, operands.LSQ()), dlhs=Gemm(DELAYED, None))
    model = qjax.quantize(Bare(), policy)
    made, plain = (init(m, X) for m in (model, Bare()))
    flat = dict(jax.tree_util.tree_leaves_with_path(made["params"]))
    for path, leaf in jax.tree_util.tree_leaves_with_path(plain["params"]):
        np.testing.assert_array_equal(flat[path], leaf)

    def loss(variables):
        out, after = model.apply(variables, X, mutable=["quant"])
        return jnp.sum(jnp.sin(out)), after["quant"]

    grads, after = quick(jax.grad(loss, has_aux=True), made)
    steps = [
        g for p, g in jax.tree_util.tree_leaves_with_path(grads["params"]) if "quant" in str(p)
    ]
    assert len(steps) == 5
    assert all(float(jnp.abs(g)) > 0 for g in steps)
    for name, found in (("fwd_lhs", after), ("dlhs_lhs", grads["quant"])):
        states = [s for p, s in jax.tree_util.tree_leaves_with_path(found) if name in str(p)]
        assert len(states) == 5
        assert all(float(jnp.max(s)) > 0 for s in states)


def test_without_a_mutable_collection_nothing_moves():
    model = qjax.quantize(MLP(), REMEMBERING)
    made = init(model, X)
    np.testing.assert_array_equal(model.apply(made, X), model.apply(made, X))


def test_missing_values_and_unlifted_collections_are_named():
    model = qjax.quantize(MLP(), LSQ)
    with pytest.raises(ValueError, match=r"'up'.*'quant/fwd_lhs'.*'params'.*`init`"):
        model.apply(variables(MLP(), X), X)
    stack = lifted(qjax.quantize(Block, REMEMBERING), "scan", {"params": 0})
    with pytest.raises(ValueError, match=r"variable_axes=\{'params': 0, 'quant': 0\}"):
        stack.init(jax.random.key(0), X)


def test_penalties_join_the_loss_of_a_step():
    bits = operands.LearnedBits(bits=6.5, price=0.25)
    recipe = Recipe([Rule("up", Policy(fwd=Gemm(None, bits)))])
    task = LinenTask(
        model=qjax.quantize(MLP(), recipe), loss_fn=lambda out, batch: jnp.sum(out * 0)
    )
    step = Step(task=task, optimizer=optax.sgd(1.0))
    batch = {"inputs": X}
    state = step.init(jax.random.key(0), batch)
    for n in range(2):
        state, metrics = jax.jit(step)(state, batch)
        assert float(metrics["loss"]) == float(metrics["penalty"]) == 0.25 * (6.5 - 0.25 * n)
    assert float(step.evaluate(state, batch, jax.random.key(0))) == 0


def test_a_loop_that_shares_its_parameters_is_learned_through_the_function_door():
    model, x = nn.RNN(nn.SimpleCell(3)), jnp.ones((2, 4, 5))
    with pytest.raises(ValueError, match=r"'lsq4'.*nn\.RNN.*qjax\.quantize\(model\.apply"):
        qjax.quantize(model, "lsq4").init(jax.random.key(0), x)
    floats = variables(model, x)
    apply = qjax.quantize(model.apply, "lsq4", weights=0)
    quant = apply.init(floats, x)
    grads = quick(jax.grad(lambda quant: jnp.sum(apply(floats, x, quant=quant))), quant)
    assert all(jnp.any(leaf != 0) for leaf in jax.tree.leaves(grads["params"]))
