"""Weights whose norms are bounded: no accumulator overflows, and gradients pass the norm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qjax import gradients
from qjax.gradients import _norms
from tests.test_learned_estimators import derivatives

LIMITS = [(16, 8, False, 127.996), (16, 8, True, 255.992), (14, 4, False, 511.94),
          (14, 4, True, 1023.88), (8, 4, False, 7.94), (8, 4, True, 15.88)]  # fmt: skip


@pytest.mark.parametrize(("accumulator", "inputs", "signed", "limit"), LIMITS)
def test_limits_are_the_published_ones(accumulator, inputs, signed, limit):
    got = gradients.l1_limit(accumulator, inputs, signed=signed, centred=False)
    assert got == pytest.approx(limit, abs=0.0051)
    centred = {(14, 4): 1092.13, (16, 8): 256.996}.get((accumulator, inputs))
    if centred:
        for sign in (True, False):
            got = gradients.l1_limit(accumulator, inputs, signed=sign, centred=True)
            assert got == pytest.approx(centred, abs=0.005)


def integers(x, *, bits=4, rounding=None, norm=None, **options):
    """Codes of channels [K, N] with step 1; by default as long as the bound allows."""
    norm = jnp.full((1, x.shape[1]), 1e9) if norm is None else norm
    step = jnp.ones((1, x.shape[1]))
    return gradients.l1_bounded(x, norm, step, bits=bits, axis=(0,), **options)


def worst(codes, inputs, signed):
    """The largest and smallest sums over all inputs, exactly."""
    codes = np.asarray(codes, np.int64)
    low, high = (-(1 << (inputs - 1)), (1 << (inputs - 1)) - 1) if signed else (0, 2**inputs - 1)
    up, down = np.maximum(codes, 0).sum(0), np.maximum(-codes, 0).sum(0)
    return up * high - down * low, up * low - down * high


CASES = [
    (accumulator, inputs, signed, centred)
    for accumulator, inputs in ((9, 4), (12, 4), (14, 8), (16, 4))
    for signed in (False, True)
    for centred in (False, True)
]


@pytest.mark.parametrize(("accumulator", "inputs", "signed", "centred"), CASES)
def test_no_input_can_overflow_the_accumulator(accumulator, inputs, signed, centred):
    key = jax.random.key(accumulator)
    x = jax.random.normal(key, (96, 1000)) ** jnp.arange(1.0, 4.0)[jnp.arange(1000) % 3]
    one_sided = jnp.abs(x)
    top = (1 << (accumulator - 1)) - 1
    for weights in (x, one_sided, jnp.eye(96, 1000), jnp.ones_like(x)):
        options = {"accumulator": accumulator, "input_bits": inputs}
        codes = integers(weights, bits=8, signed=signed, centred=centred, **options)
        up, down = worst(codes, inputs, signed)
        assert up.max() <= top
        assert down.min() >= -top
        assert np.array_equal(codes, np.round(codes))
    used = worst(integers(x, bits=8, signed=signed, centred=centred, **options), inputs, signed)
    assert max(used[0].max(), -used[1].min()) > top / 4, "the bound is made use of"


@pytest.mark.parametrize("centred", [False, True])
def test_integers_are_cut_toward_zero_as_published(centred):
    x = np.asarray(jax.random.normal(jax.random.key(7), (96, 300)), np.float64)
    free = x - x.mean(0) if centred else x
    limit = gradients.l1_limit(14, 4, signed=False, centred=centred)
    units = limit * free / np.abs(free).sum(0)
    got = integers(
        jnp.asarray(x, jnp.float32), bits=8, accumulator=14, input_bits=4, signed=False,
        centred=centred,
    )  # fmt: skip
    clear = np.abs(units - np.round(units)) > 1e-3
    assert clear.mean() > 0.9
    assert np.array_equal(np.asarray(got)[clear], np.clip(np.trunc(units), -127, 127)[clear])


def test_without_its_parts_the_bound_is_broken():
    """Rounding to nearest, or no limit, is caught by the same check: it can fail."""
    x = jax.random.normal(jax.random.key(0), (96, 300))
    centred = x - x.mean(0)
    limit = gradients.l1_limit(12, 4, signed=False, centred=True)
    units = limit * centred / jnp.abs(centred).sum(0)
    fits = {
        name: np.asarray(
            _norms.no_overflow(codes, accumulator=12, input_bits=4, signed=False, axis=(0,))
        )
        for name, codes in {
            "toward zero": jnp.trunc(units),
            "nearest": jnp.round(units),
            "no limit": jnp.trunc(2 * units),
        }.items()
    }
    assert fits["toward zero"].all()
    assert not fits["nearest"].all()
    assert not fits["no limit"].any()


@pytest.mark.parametrize("signed", [False, True])
def test_the_check_of_overflow_is_exact(signed):
    draw = np.random.default_rng(0)
    codes = draw.integers(-9, 10, (6, 4000))
    up, down = worst(codes, 3, signed)
    expected = np.maximum(up, -down) <= 127
    got = _norms.no_overflow(
        jnp.asarray(codes), accumulator=8, input_bits=3, signed=signed, axis=(0,)
    )
    assert np.array_equal(got[0], expected)
    assert 0.1 < expected.mean() < 0.9


def test_rounding_errors_are_caught_where_the_bound_is_a_hair_away():
    """A channel just beyond the bound comes back within it, not much shorter."""
    units = jnp.full((64, 1), 1.0) * (1 + 2.0**-20)
    shrunk = _norms._shrunk(units, (0,), False)
    assert np.all(np.trunc(shrunk) == 0)
    assert np.allclose(shrunk, 1.0, atol=1e-4)
    uneven = jnp.concatenate([jnp.full((4, 1), 3.0), jnp.full((4, 1), -1.0)])
    assert np.allclose(_norms._shrunk(uneven, (0,), True)[0], 2.0, atol=1e-4)


def test_bounded_weights_pass_gradients_through_the_norm():
    x = jax.random.normal(jax.random.key(1), (16, 3))
    options = {"bits": 8, "accumulator": 20, "input_bits": 4, "signed": False, "centred": False}
    step, norm = jnp.full((1, 3), 0.01), jnp.full((1, 3), 2.0)
    cot = jax.random.normal(jax.random.key(2), x.shape)

    def smooth(x, norm, step):
        return norm * x / jnp.sum(jnp.abs(x), 0, keepdims=True) + 0 * step

    made = lambda *a: gradients.l1_bounded(*a, axis=(0,), **options)  # noqa: E731
    got = derivatives(made, x, norm, step, weights=cot)
    expected = derivatives(smooth, x, norm, step, weights=cot)
    assert np.allclose(got[0], expected[0], atol=1e-5)
    assert np.allclose(got[1], expected[1], atol=1e-5)
    codes = made(x, norm, step) / step
    units = smooth(x, norm, step) / step
    assert np.allclose(got[2], (cot * (codes - units)).sum(0), atol=1e-3)
    limited = derivatives(
        lambda *a: gradients.l1_bounded(*a, axis=(0,), **{**options, "accumulator": 8}),
        x, norm, step, weights=cot,
    )  # fmt: skip
    assert np.all(np.asarray(limited[1]) == 0), "beyond the limit the norm learns nothing"


def test_the_projection_is_the_nearest_point_of_the_ball():
    draw = np.random.default_rng(3)
    x = draw.normal(size=(5, 40)).astype(np.float32)
    got = np.asarray(gradients.onto_l1_ball(jnp.asarray(x), jnp.float32(1.5), 0))
    assert np.allclose(np.minimum(np.abs(x).sum(0), 1.5), np.abs(got).sum(0), atol=1e-5)
    others = draw.normal(size=(2000, 5, 1))
    others = 1.5 * others / np.abs(others).sum(1, keepdims=True)
    distance = ((x - got) ** 2).sum(0)
    assert np.all(((x - others) ** 2).sum(1).min(0) >= distance - 1e-5)
    small = x / 100
    assert np.array_equal(gradients.onto_l1_ball(jnp.asarray(small), jnp.float32(1.5), 0), small)


def test_tanh_weights_fill_their_levels():
    x = jax.random.normal(jax.random.key(4), (20000,))
    unit = gradients.unit_tanh(x)
    assert float(jnp.max(jnp.abs(unit))) == 1
    assert np.all(np.diff(np.asarray(unit)[np.argsort(x)]) >= 0)
    for bits, linear, filled in ((3, 1.72, 2.98), (4, 2.75, 3.97), (5, 3.78, 4.96)):
        for weights, expected in ((unit, filled), (x / jnp.max(jnp.abs(x)), linear)):
            levels = gradients.spaced(weights, -1.0, 1.0, bits=bits)
            _, counts = np.unique(np.asarray(levels).round(5), return_counts=True)
            share = counts / counts.sum()
            entropy = -np.sum(share * np.log2(share))
            assert entropy == pytest.approx(expected, abs=0.3)
            assert len(counts) == 2**bits
    assert jnp.all(gradients.unit_tanh(jnp.zeros(4)) == 0)
