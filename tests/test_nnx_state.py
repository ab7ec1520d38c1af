"""Learned values and states of nnx modules are variables, and nnx's tools find them."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import qjax
from qjax import Gemm, Policy, Quantizer, calibration, operands
from qjax.train import NnxTask, Step
from tests.draws import init, module, normal

X = normal(0, (2, 6, 8))
DELAYED = Quantizer("e4m3fn:float32", calibration=calibration.Delayed(length=3))
LSQ = operands.LSQ(bits=4)
BITS = operands.LearnedBits(bits=6.5, price=0.5)
POLICY = Policy(fwd=Gemm(DELAYED, LSQ), dlhs=Gemm(DELAYED, None))
WRT = nnx.DiffState(0, nnx.Any(nnx.Param, qjax.nnx.Cotangent))


class Model(nnx.Module):
    def __init__(self, rngs):
        self.up = nnx.Linear(8, 8, rngs=rngs)
        self.attn = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
        self.mix = nnx.ConvTranspose(8, 8, (3,), rngs=rngs)

    def __call__(self, x):
        return self.mix(self.attn(jax.nn.relu(self.up(x))))


class Small(nnx.Module):
    def __init__(self, rngs):
        self.up = nnx.Linear(8, 8, rngs=rngs)

    def __call__(self, x):
        return self.up(jax.nn.relu(self.up(x)))  # One layer, called twice.


class Twin(nn.Module):
    def setup(self):
        self.up = nn.Dense(8)

    def __call__(self, x):
        return self.up(nn.relu(self.up(x)))


@pytest.fixture(scope="module")
def model():
    return module(Model)


@pytest.fixture(scope="module")
def quantized(model):
    return qjax.quantize(model, POLICY, example=(X,))


def loss(model):
    return jnp.mean(jnp.sin(model(X)))


def test_values_are_variables_beside_the_layers_own(model, quantized):
    learned = nnx.to_flat_state(nnx.state(quantized, nnx.Param))
    plain = nnx.to_flat_state(nnx.state(model, nnx.Param))
    added = {path for path, _ in learned} - {path for path, _ in plain}
    assert {path for path, _ in plain} < {path for path, _ in learned}
    assert len(added) == 8  # Four projections, two products of attention, and two layers.
    for kind in (qjax.nnx.State, qjax.nnx.Cotangent):
        assert len(jax.tree.leaves(nnx.state(quantized, kind))) == 8
    assert all(row.quantized for row in qjax.report(quantized, X, strict=True).rows)


def test_no_weight_is_copied(model, quantized):
    """The buffers of the parameters are those of the float model, by their addresses."""

    def buffers(module):
        flat = nnx.to_flat_state(nnx.state(module, nnx.Param))
        return {path: variable[...].unsafe_buffer_pointer() for path, variable in flat}

    own = buffers(model)
    assert {path: buffers(quantized)[path] for path in own} == own


def test_training_moves_learned_values_and_states(quantized):
    model = nnx.clone(quantized)
    optimizer = nnx.Optimizer(model, optax.sgd(1e-2), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        value, grads = nnx.value_and_grad(loss, argnums=WRT)(model)
        optimizer.update(model, qjax.nnx.take(model, grads))
        return value

    values = [float(step(model, optimizer)) for _ in range(4)]
    assert values[-1] < values[0]
    kinds = (nnx.Param, qjax.nnx.State, qjax.nnx.Cotangent)
    for kind in kinds:
        before, after = (jax.tree.leaves(nnx.state(m, kind)) for m in (quantized, model))
        moved = [bool(jnp.any(a != b)) for a, b in zip(before, after)]
        assert np.mean(moved) > 0.9, kind  # A bias of attention has no gradient.
    states = jax.tree.leaves(nnx.state(model, qjax.nnx.Cotangent))
    assert all(float(jnp.min(state)) > 0 for state in states)


def test_split_and_merge_keep_everything(quantized):
    graph, state = nnx.split(quantized)
    other = nnx.merge(graph, state)
    np.testing.assert_array_equal(other(X), nnx.clone(quantized)(X))


def test_linen_and_nnx_give_the_same_bits():
    """Outputs, gradients, learned values and the states of both passes."""
    small = module(Small)
    ours = qjax.quantize(small, POLICY, example=(X,))
    twin = qjax.quantize(Twin(), POLICY)
    variables = init(twin, X)
    weights = {"kernel": small.up.kernel[...], "bias": small.up.bias[...]}
    step = init(twin, X)["params"]["up"]["quant"]
    variables = {**variables, "params": {"up": {**weights, "quant": step}}}
    variables["params"]["up"]["quant"]["fwd_rhs"]["step"] = nnx.state(ours, nnx.Param)["up"][
        "dot_general"]["store"]["params"]["fwd_rhs"]["step"][...]  # fmt: skip

    def of_linen(params, quant):
        out, after = twin.apply({"params": params, "quant": quant}, X, mutable=["quant"])
        return jnp.mean(jnp.sin(out)), after["quant"]

    grad = jax.jit(jax.value_and_grad(of_linen, (0, 1), has_aux=True))
    (value, states), (params, found) = grad(variables["params"], variables["quant"])
    got, grads = nnx.jit(nnx.value_and_grad(loss, argnums=WRT))(ours)
    assert got == value
    flat = {path[-1]: leaf[...] for path, leaf in nnx.to_flat_state(grads)}
    np.testing.assert_array_equal(flat["kernel"], params["up"]["kernel"])
    np.testing.assert_array_equal(flat["step"], params["up"]["quant"]["fwd_rhs"]["step"])
    np.testing.assert_array_equal(flat["dlhs_lhs"], found["up"]["dlhs_lhs"])
    (state,) = jax.tree.leaves(nnx.state(ours, qjax.nnx.State))
    np.testing.assert_array_equal(state, states["up"]["fwd_lhs"])


def test_a_step_of_training_keeps_states_and_reports_facts():
    policy = Policy(fwd=Gemm(DELAYED, BITS), dlhs=Gemm(DELAYED, None))
    model = qjax.quantize(Small(nnx.Rngs(0)), policy, example=(X,), diagnostics=True)
    task = NnxTask(model=model, loss_fn=lambda out, batch: jnp.mean(out**2))
    step = Step(task=task, optimizer=optax.sgd(0.0), clip=1e-3)
    state = step.init(jax.random.key(0), {"inputs": X})
    for _ in range(2):
        state, metrics = jax.jit(step)(state, {"inputs": X})
    assert float(metrics["penalty"]) == 0.5 * 6.5
    names = {name.split("/")[-1] for name in metrics if name.startswith("sqnr")}
    assert names == {"fwd_lhs", "fwd_rhs", "dlhs_lhs"}
    assert all(float(value) > 5 for name, value in metrics.items() if name.startswith("sqnr"))
    history = state.variables["up"]["dot_general"]["store"]["quant"]["dlhs_lhs"]
    assert np.all(history[:2] > 0)
    assert np.all(history[2] == 0)
    chex.assert_tree_all_finite(jax.device_get(metrics))


def test_operands_that_are_trained_without_values_compute_as_in_linen():
    """Signs and ternary weights are estimated, but hold nothing."""
    small = module(Small)
    ours = qjax.quantize(small, "bitnet_b158")  # There is nothing to find from an example.
    weights = {"kernel": small.up.kernel[...], "bias": small.up.bias[...]}
    twin = qjax.quantize(Twin(), "bitnet_b158")
    np.testing.assert_array_equal(ours(X), twin.apply({"params": {"up": weights}}, X))


def test_what_is_missing_is_said(model):
    with pytest.raises(ValueError, match=r"'policy'.*`example` is None.*example=\(inputs,\)"):
        qjax.quantize(model, POLICY)
    with pytest.raises(ValueError, match=r"`example` is None"):
        qjax.quantize(model, "mxfp8", diagnostics=True)
