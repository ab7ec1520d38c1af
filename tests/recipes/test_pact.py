"""PACT and SAWB as a recipe: what the bound learns, and where weights are clipped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import recipes
from qjax.contraction.variables import Values
from qjax.recipes import pact
from tests.draws import normal

DIMENSIONS = (((1,), (0,)), ((), ()))


def test_the_bound_receives_what_it_clips_and_pays_its_penalty():
    x = jnp.array([[-1.0, 0.4, 3.0, 5.0]])
    w = jnp.array([[1.0], [1.0], [2.0], [3.0]])
    usual = Values()
    qjax.dot_general(x, w, DIMENSIONS, policy=pact.policy(4, bound=2.0), variables=usual)
    assert float(sum(usual.penalties.values())) == pytest.approx(2e-4 * 2.0**2)
    policy = pact.policy(4, bound=2.0, decay=0.5)
    values = Values()
    qjax.dot_general(x, w, DIMENSIONS, policy=policy, variables=values)
    assert float(sum(values.penalties.values())) == 0.5 * 2.0**2

    def total(params):
        return jnp.sum(
            qjax.dot_general(x, w, DIMENSIONS, policy=policy, variables=Values(params, {}))
        )

    gradient = jax.grad(total)(values.params)["fwd_lhs"]["bound"]
    weights = policy.fwd.rhs.apply(w, {}, (), contract=(0,), batch=(), key=None)[0]
    assert float(gradient) == pytest.approx(float(weights[2, 0] + weights[3, 0]), rel=1e-6)


@pytest.mark.parametrize(("bits", "c2", "c1"), [(2, 3.12, -2.064), (4, 12.68, -12.80)])
def test_weights_are_clipped_where_two_moments_say(bits, c2, c1):
    w = normal(1, (64, 64))
    made = np.asarray(
        pact.policy(bits).fwd.rhs.apply(w, {}, (), contract=(0,), batch=(), key=None)[0]
    )
    bound = c2 * np.sqrt(np.mean(np.square(w))) + c1 * np.mean(np.abs(w))
    assert np.abs(made).max() == pytest.approx(bound, rel=1e-5)
    assert len(np.unique(made.round(5))) == 2**bits - 1


def test_ends_stay_in_float32():
    recipe = recipes.get("pact_sawb4")
    for path, plain in {"layer_0": True, "block_0/up": False, "lm_head": True}.items():
        match = recipe.match(path, "dot_general")
        assert match is not None
        assert match[1].policy.is_identity == plain
