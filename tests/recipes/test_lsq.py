"""LSQ as a recipe: wide ends, steps that find their size from anywhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qjax import gradients, recipes
from qjax.recipes import lsq
from tests.draws import normal


@pytest.mark.parametrize("name", ["lsq2", "lsq3", "lsq4", "lsq_plus4"])
def test_the_first_and_the_last_layer_have_eight_bits(name):
    recipe = recipes.get(name)
    for path, bits in {"layer_0": 8, "stem/conv": 8, "layer_1": int(name[-1]), "head": 8}.items():
        match = recipe.match(path, "dot_general")
        assert match is not None
        fwd = match[1].policy.fwd
        assert (fwd.lhs.bits, fwd.rhs.bits) == (bits, bits)
        assert type(fwd.lhs).__name__ == ("LSQPlus" if "plus" in name else "LSQ")


def test_after_a_relu_levels_need_not_be_signed():
    fwd = lsq.policy(3, signed=False).fwd
    assert fwd.lhs.range == (0, 7)
    assert fwd.rhs.range == (-4, 3)


def test_the_ends_see_inputs_that_no_relu_made_and_stay_signed():
    recipe = lsq.recipe("unsigned", 3, signed=False)
    for path, signed in {"layer_0": True, "layer_1": False, "head": True}.items():
        match = recipe.match(path, "dot_general")
        assert match is not None
        assert match[1].policy.fwd.lhs.signed == signed
        assert match[1].policy.fwd.rhs.signed


def test_a_step_that_begins_four_times_too_large_or_small_finds_the_same_size():
    x = normal(0, (4096,))

    def error(log_step):
        step = jnp.exp(log_step)
        return jnp.mean((gradients.lsq(x, step, low=-4, high=3) - x) ** 2)

    @jax.jit
    def descend(log_step):
        def one(log_step, _):
            # The scale of the gradient belongs to training beside weights; here it is undone.
            return log_step - 2 * (4096 * 3) ** 0.5 * jax.grad(error)(log_step), None

        return jax.lax.scan(one, log_step, None, length=300)[0]

    best = 2 * jnp.mean(jnp.abs(x)) / 3**0.5
    found = [float(descend(jnp.log(best * factor))) for factor in (0.25, 1.0, 4.0)]
    errors = [float(error(jnp.float32(f))) for f in found]
    assert np.allclose(errors, errors[1], rtol=0.02)
    assert errors[1] < float(error(jnp.log(best * 4)))
