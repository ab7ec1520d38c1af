"""What one step computes: accumulation, clipping, narrow compute, loss scales, averages."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import Points, Symbols, TinyLM, regression_step, same, start, started

from qjax import train


def quiet(params, batch, key):
    """Mean squared error without the noise."""
    del key
    return jnp.mean(jnp.square(batch["x"] @ params["w"] + params["b"] - batch["y"]))


def quiet_step(**options):
    task = train.FunctionTask(loss_fn=quiet, init_fn=start)
    return train.Step(task=task, optimizer=optax.sgd(0.1), **options)


def test_a_step_is_the_optimizer_applied_to_the_gradient():
    step, batch = quiet_step(), Points()[0]
    state = started(step)
    following, metrics = step(state, batch)
    loss, grads = jax.value_and_grad(quiet)(state.params, batch, None)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, grads)
    chex.assert_trees_all_close(following.params, expected, rtol=1e-6)
    assert float(metrics["loss"]) == float(loss)
    assert float(metrics["grad_norm"]) == pytest.approx(float(optax.tree.norm(grads)))


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_accumulation_equals_the_whole_batch(parts):
    batch = Points()[0]
    whole, _ = quiet_step()(started(quiet_step()), batch)
    step = quiet_step(accumulate=parts)
    accumulated, metrics = step(started(step), batch)
    chex.assert_trees_all_close(accumulated.params, whole.params, rtol=1e-5, atol=1e-7)
    assert np.isfinite(float(metrics["grad_norm"]))


def test_parts_draw_different_noise():
    keys = []

    def spy(params, batch, key):
        jax.debug.callback(lambda data: keys.append(tuple(data.tolist())), jax.random.key_data(key))
        return quiet(params, batch, key)

    task = train.FunctionTask(loss_fn=spy, init_fn=start)
    step = train.Step(task=task, optimizer=optax.sgd(0.1), accumulate=4)
    state = started(step)
    for _ in range(2):
        state, _ = step(state, Points()[0])
    jax.effects_barrier()
    assert len(set(keys)) == 8


def test_a_batch_that_does_not_divide_is_refused():
    step = quiet_step(accumulate=3)
    with pytest.raises(ValueError, match=r"8 rows\. Use a batch that is a multiple of 3"):
        step(started(step), Points()[0])


def test_clipping_bounds_the_norm_and_keeps_the_direction():
    step, batch = quiet_step(clip=0.01), Points()[0]
    state = started(step)
    following, metrics = step(state, batch)
    free, _ = quiet_step()(state, batch)
    move = jax.tree.map(lambda a, b: a - b, following.params, state.params)
    whole = jax.tree.map(lambda a, b: a - b, free.params, state.params)
    assert float(optax.tree.norm(move)) == pytest.approx(0.1 * 0.01, rel=1e-3)
    assert float(metrics["grad_norm"]) > 0.01
    ratio = move["w"] / whole["w"]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-2)


def test_clipping_leaves_small_gradients_alone():
    batch = Points()[0]
    state = started(quiet_step())
    assert same(quiet_step(clip=1e6)(state, batch)[0], quiet_step()(state, batch)[0])


@pytest.mark.parametrize("factor", [2.0**-10, 1.0, 2.0**20])
def test_a_static_power_of_two_scale_changes_no_bit(factor):
    batch = Points()[0]
    step = quiet_step(loss_scale=train.StaticScale(factor))
    state = started(quiet_step())
    assert same(step(state, batch)[0].params, quiet_step()(state, batch)[0].params)


def test_a_dynamic_scale_skips_overflows_and_recovers():
    scale = train.DynamicScale(initial=2.0**126, interval=3, largest=2.0**126)
    step, points = quiet_step(loss_scale=scale), Points()
    state = started(step).replace(params={"w": jnp.full((4,), 30.0), "b": jnp.zeros(())})
    factors, skipped = [], []
    for t in range(40):
        following, _ = jax.jit(step)(state, points[t])
        skipped.append(same(following.params, state.params))
        factors.append(float(state.loss_scale.factor))
        state = following
    assert skipped[0]
    assert factors[1] == factors[0] / 2
    assert not all(skipped)
    assert sum(skipped) < 20
    assert float(state.params["w"][0]) == pytest.approx(1.0, abs=2.0)


def test_a_skipped_overflow_does_not_stop_the_run():
    scale = train.DynamicScale(initial=2.0**127, largest=2.0**127)
    step = quiet_step(loss_scale=scale)
    state = started(step).replace(params={"w": jnp.full((4,), 30.0), "b": jnp.zeros(())})
    result = train.run(step, state, Points(), steps=20, chunk=10)
    assert not np.isfinite(result.history["grad_norm"][0])
    assert np.isfinite(result.history["loss"]).all()


def test_masters_stay_float32_while_the_model_computes_in_bfloat16():
    seen = []

    def spy(params, batch, key):
        seen.append(params["w"].dtype)
        return quiet(jax.tree.map(lambda p: p.astype(jnp.float32), params), batch, key)

    task = train.FunctionTask(loss_fn=spy, init_fn=start)
    step = train.Step(task=task, optimizer=optax.sgd(1e-4), compute_dtype=jnp.bfloat16)
    state = started(step)
    following = state
    for t in range(3):
        following, _ = step(following, Points()[t])
    assert set(seen) == {jnp.dtype(jnp.bfloat16)}
    assert following.params["w"].dtype == jnp.float32
    # Steps this small would be lost in bfloat16 parameters.
    assert not np.array_equal(following.params["w"], state.params["w"])


def test_remat_changes_the_memory_and_not_the_values():
    batch = Points()[0]
    policy = jax.checkpoint_policies.nothing_saveable
    state = started(quiet_step())
    one, two = quiet_step(remat=policy)(state, batch)[0], quiet_step()(state, batch)[0]
    chex.assert_trees_all_close(one.params, two.params, rtol=1e-6)
    jaxpr = str(jax.make_jaxpr(quiet_step(remat=policy))(state, batch))
    assert "checkpoint" in jaxpr or "remat" in jaxpr


def test_the_average_follows_the_parameters_and_is_what_is_evaluated():
    step, points = quiet_step(ema=0.5), Points()
    state = started(step)
    seen = [state.params["w"]]
    for t in range(3):
        state, _ = step(state, points[t])
        seen.append(state.params["w"])
    average = seen[0]
    for t, w in enumerate(seen[1:], 1):
        decay = min(0.5, (1 + t) / (10 + t))
        average = decay * average + (1 - decay) * w
    np.testing.assert_allclose(state.average["w"], average, rtol=1e-5)
    expected = quiet(state.average, points[5], None)
    assert float(step.evaluate(state, points[5], jax.random.key(0))) == pytest.approx(
        float(expected)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate": 0}, "`accumulate` must be at least 1"),
        ({"clip": 0.0}, "`clip` must be positive"),
        ({"ema": 1.0}, r"`ema` must lie in \(0, 1\)"),
    ],
)
def test_senseless_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        regression_step(**options)


def test_a_loss_that_is_no_scalar_is_refused():
    task = train.FunctionTask(loss_fn=lambda p, b, k: b["x"], init_fn=start)
    step = train.Step(task=task, optimizer=optax.sgd(0.1))
    with pytest.raises((TypeError, ValueError), match=r"must be a scalar .* shape is \(8, 4\)"):
        step(started(step), Points()[0])


def test_metrics_of_the_loss_are_reported():
    def loss(params, batch, key):
        return quiet(params, batch, key), {"norm": jnp.sum(jnp.abs(params["w"]))}

    task = train.FunctionTask(loss_fn=loss, init_fn=start)
    step = train.Step(task=task, optimizer=optax.sgd(0.1), accumulate=2)
    state = started(step)
    _, metrics = step(state, Points()[0])
    assert float(metrics["norm"]) == pytest.approx(float(jnp.sum(jnp.abs(state.params["w"]))))


def test_an_nnx_module_learns_with_its_dropout_stream():
    from flax import nnx

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.embed = nnx.Embed(32, 32, rngs=rngs)
            self.drop = nnx.Dropout(0.1, rngs=rngs)
            self.norm = nnx.BatchNorm(32, rngs=rngs)
            self.head = nnx.Linear(32, 32, rngs=rngs)

        def __call__(self, x):
            return self.head(self.drop(self.norm(self.embed(x))))

    task = train.NnxTask(model=Model(nnx.Rngs(0)))
    step = train.Step(task=task, optimizer=optax.adam(3e-2))
    symbols = Symbols()
    state = step.init(jax.random.key(0), symbols[0])
    evaluate = train.make_evaluator(step, [symbols[1000]])
    first = evaluate(state).loss
    before = jax.tree.map(np.asarray, state.variables["norm"])
    result = train.run(step, state, symbols, steps=60, chunk=20, evaluate=evaluate)
    assert result.evaluations[-1].loss < 0.7 * first
    assert not same(before, result.state.variables["norm"])
    model = task.merge(result.state.params, result.state.variables)
    model.eval()
    assert model(symbols[0]["inputs"]).shape == (4, 8, 32)


def test_linen_collections_are_carried_from_step_to_step():
    from flax import linen as nn

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            return nn.BatchNorm(use_running_average=not train)(x)

    task = train.LinenTask(
        model=Model(),
        loss_fn=lambda out, batch: jnp.mean(out),
        inputs=lambda batch: (batch["x"],),
        train_kwargs={"train": True},
        eval_kwargs={"train": False},
    )
    step = train.Step(task=task, optimizer=optax.sgd(0.1))
    state = started(step)
    following, _ = step(state, Points()[0])
    assert not same(following.variables, state.variables)


def test_a_recipe_without_a_way_to_apply_it_is_refused():
    with pytest.raises(ValueError, match=r"Build the task with `quantize=qjax\.quantize`"):
        train.Step(task=train.LinenTask(model=TinyLM()), optimizer=optax.sgd(0.1), recipe="x")
