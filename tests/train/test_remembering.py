"""A step keeps what operands remember apart from gradients, and reports facts about casts."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import qjax
from qjax import Gemm, Policy, Quantizer, calibration
from qjax.train import Exchange, LinenTask, StaticScale, Step, make_mesh

DELAYED = Quantizer("e5m2:float32", calibration=calibration.Delayed(length=3))
POLICY = Policy(fwd=Gemm(DELAYED, "mxfp4"), dlhs=Gemm(DELAYED, "mxfp8"), drhs=Gemm(None, DELAYED))
BATCH = {"inputs": jax.random.normal(jax.random.key(0), (16, 8))}
STATES = {"dlhs_lhs", "drhs_rhs", "fwd_lhs"}


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(8, name="down")(nn.relu(nn.Dense(8, name="up")(x)))


def step_of(diagnostics=False, **options):
    model = qjax.quantize(MLP(), POLICY, diagnostics=diagnostics)
    task = LinenTask(model=model, loss_fn=lambda out, batch: jnp.mean(out**2))
    return Step(task=task, optimizer=optax.sgd(0.0), **options)


def after(step, turns=1):
    state = step.init(jax.random.key(0), BATCH)
    run = jax.jit(step)
    metrics = {}
    for _ in range(turns):
        state, metrics = run(state, BATCH)
    return jax.device_get((state.variables, metrics))


@pytest.fixture(scope="module")
def plain():
    return after(step_of())[0]["quant"]


def test_states_are_the_largest_magnitudes_that_were_met(plain):
    assert set(plain["up"]) == STATES
    assert all(np.all(leaf[0] > 0) and np.all(leaf[1:] == 0) for leaf in jax.tree.leaves(plain))
    np.testing.assert_allclose(plain["up"]["fwd_lhs"].max(), np.abs(BATCH["inputs"]).max())


@pytest.mark.parametrize(
    "options", [{"clip": 1e-6}, {"ema": 0.9}, {"remat": jax.checkpoint_policies.nothing_saveable}]
)
def test_nothing_that_is_done_to_gradients_touches_states(plain, options):
    chex.assert_trees_all_close(after(step_of(**options))[0]["quant"], plain, rtol=1e-6)


def test_a_loss_scale_is_part_of_the_cotangents_that_were_cast(plain):
    got = after(step_of(loss_scale=StaticScale(8.0)))[0]["quant"]
    for name in ("dlhs_lhs", "drhs_rhs"):
        np.testing.assert_allclose(got["down"][name], 8 * plain["down"][name], rtol=1e-6)


def test_parts_of_a_batch_and_devices_are_joined_by_the_largest():
    """The mean over a part of the batch has gradients larger by the number of parts.

    Looked at after the first step is forgotten, where every part is bounded by its own tensor.
    """
    whole = after(step_of(), turns=6)[0]["quant"]
    parts = after(step_of(accumulate=4), turns=6)[0]["quant"]
    exchange = Exchange(mesh=make_mesh(data=4))
    devices = after(step_of(exchange=exchange), turns=6)[0]["quant"]
    for got in (parts, devices):
        for name in ("dlhs_lhs", "drhs_rhs"):
            expected = 4 * whole["down"][name][0]
            np.testing.assert_allclose(got["down"][name][0], expected, rtol=1e-5)
        np.testing.assert_array_equal(got["up"]["fwd_lhs"], whole["up"]["fwd_lhs"])


def test_a_layer_that_was_not_met_goes_on_remembering():
    class Either(nn.Module):
        @nn.compact
        def __call__(self, x, other=False):
            one, two = nn.Dense(8, name="one")(x), nn.Dense(8, name="two")(x)
            return two if other else one

    task = LinenTask(
        model=qjax.quantize(Either(), POLICY),
        loss_fn=lambda out, batch: jnp.mean(out**2),
        inputs=lambda batch: (batch["inputs"], batch.get("other", False)),
    )
    step = Step(task=task, optimizer=optax.sgd(0.0))
    state = step.init(jax.random.key(0), BATCH)
    first, _ = step(state, BATCH)
    second, _ = step(first, {**BATCH, "other": True})
    one, two = second.variables["quant"]["one"], second.variables["quant"]["two"]
    np.testing.assert_array_equal(one["dlhs_lhs"], first.variables["quant"]["one"]["dlhs_lhs"])
    assert np.max(two["dlhs_lhs"]) > 0 == np.max(first.variables["quant"]["two"]["dlhs_lhs"])


@pytest.mark.parametrize("accumulate", [1, 4])
def test_facts_become_metrics_and_start_anew(accumulate):
    variables, metrics = after(step_of(diagnostics=True, accumulate=accumulate), turns=2)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(variables["quant_diagnostics"]))
    operands = {f"{layer}/{name}" for layer in ("up", "down") for name in STATES}
    operands |= {f"{layer}/{name}" for layer in ("up", "down") for name in ("fwd_rhs", "dlhs_rhs")}
    for kind in ("sqnr", "saturated", "underflowed"):
        assert {m.removeprefix(kind + "/") for m in metrics if m.startswith(kind)} == operands
    weights = {"fwd_rhs": ("mxfp4", 0), "dlhs_rhs": ("mxfp8", 1)}
    state = step_of().init(jax.random.key(0), BATCH)
    kernel = state.params["up"]["kernel"]
    for name, (qtype, axis) in weights.items():
        expected = qjax.diagnostics.sqnr(kernel, qjax.cast(kernel, qtype, axis=axis))
        assert float(metrics[f"sqnr/up/{name}"]) == pytest.approx(float(expected), abs=1e-3)
    assert all(0 <= float(metrics[f"saturated/{name}"]) < 0.5 for name in operands)


def test_diagnostics_off_leave_no_trace_in_variables_or_metrics(plain):
    variables, metrics = after(step_of())
    assert set(variables) == {"quant"}
    assert set(metrics) == {"loss", "grad_norm"}
    watched, _ = after(step_of(diagnostics=True))
    chex.assert_trees_all_equal(watched["quant"], plain)
