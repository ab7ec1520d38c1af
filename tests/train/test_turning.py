"""The rule of turning points on scripted losses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qjax import train
from qjax.recipes import fractrain


def levels(schedule, losses):
    """Levels after each of a list of losses, one compiled program."""

    @jax.jit
    def run(losses):
        def one(state, loss):
            state = schedule.update(state, {"loss": loss})
            return state, (state.level, state.threshold)

        return jax.lax.scan(one, schedule.init(), losses)[1]

    level, threshold = run(jnp.asarray(losses, jnp.float32))
    return np.asarray(level).tolist(), np.asarray(threshold)


def turning(**options):
    options = {"period": 1, "threshold": 0.05, **options}
    return train.TurningPoints(recipes=fractrain.stages(), **options)


def test_constant_losses_turn_when_the_window_is_full_and_it_is_then_emptied():
    level, threshold = levels(turning(), [1.0] * 22)
    assert level == [0] * 4 + [1] * 5 + [2] * 5 + [3] * 8
    factors = threshold / 0.05
    assert np.allclose(factors, [1] * 4 + [0.3] * 5 + [0.09] * 13), "it shrinks at two turns only"


def test_losses_that_fall_faster_than_the_threshold_never_turn():
    assert max(levels(turning(warmup=1), 1.0 - 0.06 * np.arange(16))[0]) == 0
    # Relative to the first period: what is a small change of a large loss does turn.
    assert levels(turning(warmup=1), 100.0 - 0.06 * np.arange(5))[0][-1] == 1


def test_a_change_of_just_the_threshold_still_turns():
    window = [1.0, 1.03125, 1.03125, 1.03125, 1.0]
    assert levels(turning(threshold=0.03125, warmup=1), window)[0][-1] == 1
    assert levels(turning(threshold=0.03, warmup=1), window)[0][-1] == 0


def test_the_scale_is_the_mean_of_the_first_periods_and_then_stays():
    schedule = turning(warmup=3)
    state = schedule.init()
    for loss in (4.0, 2.0, 3.0, 100.0, 100.0):
        state = schedule.update(state, {"loss": jnp.float32(loss)})
    assert float(state.scale) == 3.0


def test_periods_average_their_losses():
    losses = np.tile([0.5, 1.5], 5)
    assert levels(turning(period=2), losses)[0] == [0] * 9 + [1]
    assert max(levels(turning(), losses)[0]) == 0


def test_stages_cost_what_their_bits_say_and_differ_in_numbers_alone():
    assert fractrain.cost(3, 6) == pytest.approx((9 + 18 + 18) / 3072)
    schedule, seen = turning(), []
    for level in range(4):
        state = dataclasses.replace(schedule.init(), level=jnp.int32(level))
        gemm = schedule.recipe(jnp.int32(0), state).rules[-1].policy.dlhs
        seen.append((int(gemm.rhs.qtype.format.bits), int(gemm.lhs.qtype.format.bits)))
    assert seen == list(zip(fractrain.FORWARD, fractrain.BACKWARD))
    with pytest.raises(ValueError, match=r"as many forward as backward"):
        fractrain.stages((3, 4), (6,))
    with pytest.raises(ValueError, match=r"`window` of at least 2"):
        turning(window=1)
