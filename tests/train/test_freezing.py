"""Frozen parameters move until their step and not after; others go on."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from qjax.train import freeze_after


def test_only_what_matches_stops_and_only_after_its_step():
    params = {"layer": {"bits": jnp.ones(2), "kernel": jnp.ones(2)}}
    optimizer = optax.chain(optax.sgd(1.0), freeze_after(2, "layer/bits"))
    state, seen = optimizer.init(params), []
    for _ in range(4):
        updates, state = jax.jit(optimizer.update)(params, state)
        seen.append((float(updates["layer"]["bits"][0]), float(updates["layer"]["kernel"][0])))
    assert seen == [(-1, -1), (-1, -1), (0, -1), (0, -1)]
    assert np.array_equal(updates["layer"]["kernel"], [-1, -1])


def test_a_pattern_that_matches_nothing_is_refused():
    with pytest.raises(ValueError, match=r"'bits' matches no parameter\. The paths are layer/bits"):
        freeze_after(2, "bits").init({"layer": {"bits": jnp.ones(2)}})
