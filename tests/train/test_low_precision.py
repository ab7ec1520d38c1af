"""bfloat16 parameters, moments in eight bits and gradients sent in eight bits still train."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import Points, regression_step, same, start, started

from qjax import train
from qjax.qtensor import QTensor
from qjax.qtypes import block_float
from qjax.quantizer import Quantizer
from qjax.train.tasks import Outcome


def test_updates_end_on_bfloat16_values_and_are_right_on_average():
    params = {"w": jnp.ones(4000, jnp.bfloat16)}
    optimizer = train.stochastic_parameters(optax.sgd(1.0))
    # A tenth of the spacing above one: nearest rounding would lose every one of them.
    grads = {"w": jnp.full(4000, -(2.0**-7) / 10, jnp.float32)}
    state = optimizer.init(params)
    for _ in range(20):
        updates, state = optimizer.update(grads, state, params)
        params = train.step.apply_updates(params, updates)
    assert params["w"].dtype == jnp.bfloat16
    moved = np.asarray(params["w"].astype(jnp.float32)) - 1
    steps = moved / 2.0**-7
    assert np.array_equal(steps, np.round(steps))
    # 20 draws of chance 1/10 each: mean 2, standard error sqrt(1.8 / 4000).
    assert steps.mean() == pytest.approx(2.0, abs=5 * np.sqrt(1.8 / 4000))
    lost = train.step.apply_updates({"w": jnp.ones(4, jnp.bfloat16)}, {"w": -grads["w"][:4]})
    assert np.array_equal(lost["w"], np.ones(4))


def test_updates_without_parameters_are_refused():
    optimizer = train.stochastic_parameters(optax.sgd(1.0))
    with pytest.raises(ValueError, match="`params` is None"):
        optimizer.update({"w": jnp.ones(3)}, optimizer.init({"w": jnp.ones(3)}))


def test_moments_are_stored_in_a_quarter_of_the_bytes():
    params = {"large": jnp.zeros((64, 64)), "small": jnp.zeros(8)}
    full = optax.adamw(1e-3).init(params)
    few = train.quantized_moments(optax.adamw(1e-3)).init(params)
    moments = 2 * 64 * 64
    assert train.nbytes(full) - train.nbytes(few) == 4 * moments - moments * 33 // 32
    kinds = {
        type(leaf) for leaf in jax.tree.leaves(few[0].mu, is_leaf=lambda x: isinstance(x, QTensor))
    }
    assert len(kinds) == 2  # The small array stays as it is.


def test_quantized_moments_follow_the_exact_ones():
    exact, few = optax.adam(1e-2), train.quantized_moments(optax.adam(1e-2), smallest=1)
    params = {"w": jnp.zeros((8, 64))}
    a, b = exact.init(params), few.init(params)
    for t in range(5):
        grads = {"w": jax.random.normal(jax.random.key(t), (8, 64)) + 3}
        with jax.numpy_dtype_promotion("standard"):
            wanted, a = exact.update(grads, a, params)
            found, b = few.update(grads, b, params)
        # Stored values are off by at most a sixteenth (E4M3) and an eighth (E5M2 of the root).
        np.testing.assert_allclose(found["w"], wanted["w"], rtol=0.35)
    assert not same(found, wanted)


def test_an_optimizer_without_moments_is_refused():
    with pytest.raises(ValueError, match="Wrap adam or adamw"):
        train.quantized_moments(optax.sgd(0.1)).init({"w": jnp.zeros(3)})


def test_a_model_in_bfloat16_with_eight_bit_moments_learns():
    def narrow(key):
        return jax.tree.map(lambda p: p.astype(jnp.bfloat16), start(key))

    def loss(params, batch, key):
        wide = jax.tree.map(lambda p: p.astype(jnp.float32), params)
        return jnp.mean(jnp.square(batch["x"] @ wide["w"] + wide["b"] - batch["y"]))

    optimizer = train.stochastic_parameters(train.quantized_moments(optax.adam(1e-2), smallest=1))
    task = train.FunctionTask(loss_fn=loss, init_fn=narrow)
    step = train.Step(task=task, optimizer=optimizer)
    state = started(step)
    assert state.params["w"].dtype == jnp.bfloat16
    losses = train.run(step, state, Points(), steps=300, chunk=100).history["loss"]
    assert losses[-20:].mean() < 0.05 * losses[:20].mean()


def test_the_exchanged_mean_is_unbiased_and_near_the_exact_one():
    mesh = train.make_mesh(data=4)
    exchange = train.Exchange(mesh=mesh)
    parts = jax.random.normal(jax.random.key(1), (4, 300))

    def one(part, data):
        return exchange.mean({"g": part[0]}, jax.random.wrap_key_data(data))["g"]

    spec = jax.sharding.PartitionSpec
    mean = jax.jit(
        jax.shard_map(
            one, mesh=mesh, in_specs=(spec("data"), spec()), out_specs=spec(), check_vma=False
        )
    )
    # What travels, codes and scales alike, is bytes.
    program = str(jax.make_jaxpr(mean)(parts, jax.random.key_data(jax.random.key(0))))
    sent = re.findall(r":(\w+)\[[^\]]*\] = (all_to_all|all_gather)", program)
    assert sent == [("u8", "all_to_all")] * 2 + [("u8", "all_gather")] * 2
    exact = np.asarray(parts.mean(axis=0))
    draws = np.stack([mean(parts, jax.random.key_data(jax.random.key(i))) for i in range(200)])
    error = draws.std(axis=0) / np.sqrt(200)
    assert np.abs(draws[0] - exact).max() < 0.2
    assert np.abs((draws.mean(axis=0) - exact) / (error + 1e-6)).max() < 5


def test_every_device_draws_noise_of_its_own():
    """The mean of four independent normal numbers has half the deviation of one."""
    exchange = train.Exchange(mesh=train.make_mesh(data=4))

    def differentiate(batch, key):
        return Outcome(jnp.float32(0), {}, {}), jax.random.normal(key, (4096,))

    batch = {"x": jnp.zeros(4)}
    _, mean = jax.jit(lambda key: exchange.gradients(differentiate, batch, key))(jax.random.key(0))
    assert float(jnp.std(mean)) == pytest.approx(0.5, rel=0.1)


def test_a_run_with_exchanged_gradients_learns_like_the_plain_one():
    mesh = train.make_mesh(data=4)
    plain = regression_step()
    step = regression_step(exchange=train.Exchange(mesh=mesh))
    placement = train.Placement(mesh=mesh)
    state = placement.state(started(step))
    result = train.run(step, state, Points(), steps=200, chunk=100, placement=placement)
    expected = train.run(plain, started(plain), Points(), steps=200, chunk=100)
    few, full = (r.history["loss"][-20:].mean() for r in (result, expected))
    assert few == pytest.approx(full, rel=0.3, abs=0.02)


def test_an_axis_the_mesh_lacks_is_refused():
    with pytest.raises(ValueError, match="`axis` is 'model', but the mesh has data"):
        train.Exchange(mesh=train.make_mesh(data=2), axis="model", quantizer=Quantizer("bfloat16"))


def test_a_wide_copy_collects_updates_that_the_narrow_one_does_not_see():
    wide = Quantizer(block_float(16, 8))
    narrow = Quantizer(block_float(4, 8))
    params = {"w": wide.cast(jax.random.normal(jax.random.key(0), (16, 3)), contract=(0,))}
    optimizer = train.rounded_parameters(optax.sgd(1.0), wide)
    state, before = optimizer.init(params), params["w"]
    grads = {"w": jnp.full((16, 3), -(2.0**-9))}
    for taken in range(1, 65):
        updates, state = optimizer.update(grads, state, params)
        params = train.step.apply_updates(params, updates)
        assert np.array_equal(wide.cast(params["w"], contract=(0,)), params["w"])
        if taken == 1:
            narrow_now = narrow.cast(params["w"], contract=(0,))
            unmoved = narrow_now == narrow.cast(before, contract=(0,))
            assert np.mean(unmoved) > 0.9
    assert np.allclose(params["w"] - before, 64 * 2.0**-9, atol=64 * 2.0**-14)
    assert (
        np.mean(narrow.cast(params["w"], contract=(0,)) == narrow.cast(before, contract=(0,))) < 0.9
    )
