"""The two-stage schedule: where the rate jumps, and where weight decay ends."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from qjax import train


def test_the_rate_falls_to_zero_and_jumps_once():
    rate = train.two_stage_rate(2.4e-3, 1.5e-3, steps=100, warmup=10)
    values = np.array([float(rate(t)) for t in range(101)])
    jump = values[50] / values[49]
    assert jump == pytest.approx(1.5 / 2.4 * 50 / 51, rel=1e-5)
    assert values[100] == 0
    assert values[0] == pytest.approx(2.4e-3 / 11)
    line = 1 - np.arange(101) / 100
    assert values[11:50] == pytest.approx(2.4e-3 * line[11:50], rel=1e-5)
    assert values[50:] == pytest.approx(1.5e-3 * line[50:], rel=1e-5, abs=1e-12)
    assert float(jax.jit(rate)(jnp.int32(75))) == pytest.approx(values[75])


def test_decay_ends_and_is_decoupled_from_the_gradient():
    optimizer = train.two_stage_adamw(1e-2, 1e-2, steps=9, weight_decay=0.5, decay_share=2 / 3)
    plain = train.two_stage_adamw(1e-2, 1e-2, steps=9, weight_decay=0.0)
    params = {"w": jnp.full(3, 4.0)}
    grads = {"w": jnp.ones(3)}
    states = optimizer.init(params), plain.init(params)
    for t in range(9):
        with jax.numpy_dtype_promotion("standard"):
            one, first = optimizer.update(grads, states[0], params)
            other, second = plain.update(grads, states[1], params)
        states = first, second
        rate = 1e-2 * (1 - t / 9)
        wanted = -rate * 0.5 * 4.0 if t < 6 else 0.0
        assert np.allclose(one["w"] - other["w"], wanted, atol=1e-7), t


def test_decay_without_parameters_is_refused():
    decay = train.decay_until(0.1, 5)
    with pytest.raises(ValueError, match="`params` is None"):
        decay.update({"w": jnp.ones(2)}, decay.init({}))
    assert isinstance(decay, optax.GradientTransformation)
