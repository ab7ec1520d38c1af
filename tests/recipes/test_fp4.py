"""The FP4 design space: ranges of its scales, its gradients, and what each choice changes."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import Quantizer, recipes
from qjax.contraction.operands import ScaleGradient
from qjax.recipes.fp4 import UE5M3, Design, space
from tests.draws import normal

X = normal(0, (16, 64)) * jnp.exp(normal(1, (16, 1)))


def error(design, factor=1.0):
    """Mean squared error of a tensor that is small by a factor, relative to its power."""
    x = X * factor
    cast = Quantizer(design.qtype).cast(x)
    return float(jnp.sum(jnp.square((cast - x) / factor)) / jnp.sum(jnp.square(X)))


def test_the_range_of_a_scale_decides_what_small_tensors_keep():
    plain = {s: Design(scale=s, tensor_scale=False) for s in ("e8m0", "e4m3", "ue5m3", "float32")}
    scaled = {s: Design(scale=s) for s in ("e4m3", "ue5m3")}
    errors = {name: error(d) for name, d in plain.items()}
    assert errors["float32"] < 1.1 * errors["ue5m3"] < errors["e8m0"]
    assert error(plain["e4m3"], 1e-6) == 1, "all scales are zero"
    assert error(plain["e4m3"], 1e-3) > 1.5 * error(plain["ue5m3"], 1e-3)
    for design in scaled.values():
        assert error(design, 1e-6) == pytest.approx(error(design), rel=0.05)
    assert UE5M3.max == 114688


def test_the_scale_gradient_reaches_the_largest_element_alone():
    operand = ScaleGradient(Quantizer(Design(tensor_scale=False, scale="float32").qtype))
    g = normal(2, X.shape)

    def out(x):
        return operand.apply(x, {}, (), contract=(1,), batch=(), key=None)[0]

    values, back = jax.vjp(out, X)
    assert np.array_equal(values, operand.quantizer.cast(X))
    extra = np.array(back(g)[0] - g).reshape(-1, 16)
    blocks = np.asarray(X).reshape(-1, 16)
    top = np.argmax(np.abs(blocks), axis=1)
    rows = np.arange(len(top))
    terms = (np.asarray(g) * np.asarray(values - X)).reshape(-1, 16).sum(1)
    assert extra[rows, top] == pytest.approx(terms / blocks[rows, top], rel=1e-3, abs=1e-5)
    extra[rows, top] = 0
    assert np.abs(extra).max() < 1e-6


def test_the_scale_gradient_is_that_of_a_smooth_cast():
    """With a rounding that moves nothing over a small step, finite differences see the scale."""
    x = jnp.float32([[6.0, 0.9, -2.2, 4.4] + [0.0] * 12])
    operand = ScaleGradient(Quantizer(Design(tensor_scale=False, scale="float32").qtype))

    def out(x):
        return operand.apply(x, {}, (), contract=(1,), batch=(), key=None)[0]

    def codes_held(top):
        # Codes of the block are fixed near x: only the scale moves them.
        return operand.quantizer.cast(x) * top / 6.0

    moved = np.asarray((codes_held(6.0 + 1e-2) - codes_held(6.0 - 1e-2)) / 2e-2)
    for i in range(4):
        _, back = jax.vjp(out, x)
        g = jnp.zeros_like(x).at[0, i].set(1.0)
        straight = float(i == 0)
        # What rounding as the identity adds: the move of the value less that of the element.
        wanted = straight + moved[0, i] - float(x[0, i]) / 6.0
        assert back(g)[0][0, 0] == pytest.approx(wanted, abs=1e-3)


def test_each_choice_changes_its_part_alone():
    base = Design(hadamard=False, tensor_scale=False, noise="none")
    assert base.policy.drhs.transform is None
    assert not base.policy.stochastic
    assert base.operations == 0
    noisy = dataclasses.replace(base, noise="gradients").policy
    drawn = [place for place, q in noisy.quantizers().items() if q.stochastic]
    assert drawn == [("dlhs", "cotangent"), ("drhs", "cotangent")]
    scales = dataclasses.replace(base, noise="gradients and scales").policy
    assert scales.dlhs.lhs.scale.stochastic
    assert not scales.dlhs.rhs.scale.stochastic
    assert dataclasses.replace(base, gradient="clipped").policy.clip
    assert isinstance(dataclasses.replace(base, gradient="scale").policy.fwd.rhs, ScaleGradient)
    assert recipes.get("fp4").default.drhs.transform.block == 16
    assert Design().operations > 1
    assert Design(scale="float32", tensor_scale=False).qtype.bits_per_element == 6


def test_the_space_is_the_whole_product_and_says_what_is_left_out():
    designs, excluded = space()
    # Scales, rules, noise, gradients, Hadamard, tensor scale.
    assert len(designs) + len(excluded) == 4 * 2 * 3 * 3 * 2 * 2
    assert len({d.name for d in designs}) == len({d.policy for d in designs}) == len(designs) == 120
    assert Design() in designs
    for design, reason in excluded.items():
        with pytest.raises(ValueError, match=reason):
            _ = design.policy
    assert {d.block for d in space(32)[0]} == {32}


def test_the_rule_of_exponents_decides_whether_noise_is_biased():
    x = jnp.linspace(-1.0, 1.0, 16).at[3].set(7.5)
    keys = jax.random.split(jax.random.key(0), 4096)
    for rule, biased in (("rceil", False), ("floor", True)):
        design = Design(scale="e8m0", rule=rule, tensor_scale=False)
        cast = design.policy.dlhs.lhs.cast
        drawn = np.asarray(jax.vmap(lambda key, cast=cast: cast(x, key=key))(keys), np.float64)
        error = np.abs(drawn.mean(0) - x) - 1e-6
        assert np.any(error > 5 * drawn.std(0) / 64 + 1e-9) == biased


@pytest.mark.parametrize("gradient", ["through", "clipped", "scale"])
def test_every_gradient_trains(gradient):
    recipe = Design(gradient=gradient, noise="none", hadamard=False).recipe()
    model = qjax.quantize(nn.Dense(16), recipe)
    variables = model.init(jax.random.key(0), X)
    grads = jax.grad(lambda p: jnp.sum(model.apply({"params": p}, X) ** 2))(variables["params"])
    assert np.all(np.isfinite(grads["kernel"]))
    assert np.any(grads["kernel"])
