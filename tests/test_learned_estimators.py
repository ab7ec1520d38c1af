"""Learned casts against closed forms, integer references and brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qjax import formats, gradients
from qjax.rounding import Floor, NearestEven, NearestUp, NearestZero, TowardZero


def derivatives(function, *at, weights=1.0):
    total = lambda *a: jnp.sum(weights * function(*a))  # noqa: E731
    return jax.grad(total, tuple(range(len(at))))(*map(jnp.asarray, at))


def test_the_step_of_lsq_has_the_published_derivative():
    v = jnp.array([-9, -7.6, -0.3, 0.5, 1.5, 2.49, 9], jnp.float32)
    expected = np.array([-8, -0.4, 0.3, -0.5, 0.5, -0.49, 7])
    for n, value in enumerate(expected):
        _, ds = derivatives(lambda x, s: gradients.lsq(x, s, low=-8, high=7), v[n : n + 1], 1.0)
        assert float(ds) * np.sqrt(7) == pytest.approx(value, abs=1e-5)


def test_bits_between_two_widths_interpolate_as_published():
    v = jnp.array([0, 0.1, 0.25, 0.6, 1])
    got = gradients.learned_bits(v, jnp.float32(2.3))
    assert np.allclose(got, [0, 0.042857, 0.319048, 0.638095, 1], atol=1e-6)
    below = gradients.learned_bits(v, jnp.float32(2.999999))
    assert np.allclose(below, gradients.learned_bits(v, jnp.float32(3.0)), atol=1e-5)
    for bits in (1.0, 2.0, 5.0):
        values = gradients.learned_bits(jnp.linspace(-1.0, 2.0, 500), jnp.float32(bits))
        assert len(np.unique(np.asarray(values).round(5))) == 2**bits
        assert float(values.min()) == -1.0
        assert float(values.max()) == pytest.approx(2.0)


def test_an_end_of_spaced_values_receives_what_is_clipped_and_its_share_inside():
    x, top = jnp.array([-1.0, 0.4, 0.9, 3.0, 5.0]), 3
    gx, gb = derivatives(lambda x, b: gradients.spaced(x, 0.0, b, bits=2), x, 2.0)
    assert gx.tolist() == [0, 1, 1, 0, 0]
    z = np.array([0.4, 0.9]) * top / 2
    assert float(gb) == pytest.approx(2 - np.sum(z - np.round(z)) / top, rel=1e-5)
    assert np.allclose(gradients.spaced(x, 0.0, 2.0, bits=2), gradients.pact(x, jnp.float32(2), 2))
    grid = gradients.spaced(jnp.linspace(-2.0, 2.0, 300), -1.0, 1.0, bits=3)
    assert np.allclose(np.unique(grid), np.linspace(-1, 1, 8), atol=1e-6)


def test_soft_levels_round_like_hard_ones_and_rise_like_a_tangent():
    x, bits, top = jnp.linspace(-1.2, 1.3, 1001), 2, 3
    ends = (jnp.float32(-1.0), jnp.float32(1.0))
    got = gradients.soft_levels(x, *ends, jnp.float32(0.2), bits=bits)
    assert np.allclose(np.unique(got), np.linspace(-1, 1, 4), atol=1e-6)
    hard = gradients.spaced(x, *ends, bits=bits)
    tie = np.abs((np.asarray(x) + 1) * top / 2 % 1 - 0.5) < 1e-3
    assert np.allclose(got[~tie], hard[~tie], atol=1e-6)
    # With alpha 0.2 the tangent of slope 2.197 is scaled by 1.25, and rises by one step.
    gx, _, _, ga = derivatives(lambda x, *a: gradients.soft_levels(x, *a, bits=bits), x, *ends, 0.2)
    part = (np.asarray(x) + 1) * top / 2 % 1 - 0.5
    slope = 1.25 * np.log(9) / 2 / np.cosh(np.log(9) * part) ** 2
    inside = np.abs(np.asarray(x)) < 0.999
    assert np.allclose(np.asarray(gx)[inside], slope[inside], rtol=1e-3)
    assert np.all(np.asarray(gx)[np.abs(np.asarray(x)) > 1.001] == 0)
    assert np.isfinite(ga)


def soft(x, low, high, softness, bits):
    """The soft values themselves, whose derivatives are to be kept."""
    step = (high - low) / (2**bits - 1)
    below = np.floor((x - low) / step)
    rise = np.tanh(np.log(2 / softness - 1) * ((x - low) / step - below - 0.5)) / (1 - softness)
    return low + step * (below + (rise + 1) / 2)


@pytest.mark.parametrize("which", range(4))
def test_soft_levels_keep_the_derivatives_of_the_soft_values(which):
    at, h = [0.31, -1.0, 1.1, 0.2], 1e-6
    up, down = ([v + s * h * (i == which) for i, v in enumerate(at)] for s in (1, -1))
    expected = (soft(*up, 3) - soft(*down, 3)) / (2 * h)
    got = derivatives(lambda *a: gradients.soft_levels(*a, bits=3), *at)
    assert float(got[which]) == pytest.approx(expected, rel=1e-3)


def reference(value, step, bits, signed, mode, wrap):
    """`ap_fixed` on whole numbers: `value` and `step` are integers in some tiny unit."""
    below, rest = divmod(int(value), int(step))
    half = 2 * rest - step
    up = {
        "Floor": False,
        "NearestUp": half >= 0,
        "NearestEven": half > 0 or (half == 0 and below % 2 == 1),
        "NearestZero": half > 0 or (half == 0 and value < 0),
        "TowardZero": value < 0 and rest > 0,
    }[mode]
    code, low = below + int(up), -(1 << (bits - 1)) if signed else 0
    count = 1 << bits
    return (code - low) % count + low if wrap else min(max(code, low), low + count - 1)


@pytest.mark.parametrize("rule", [Floor(), NearestUp(), NearestEven(), NearestZero(), TowardZero()])
@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize(("bits", "signed"), [(4, True), (4, False), (9, True)])
def test_codes_are_those_of_hardware_in_every_mode(rule, wrap, bits, signed):
    step = 8  # in units of 1/64: steps are eighths
    values = np.arange(-3 << (bits + 2), 3 << (bits + 2))
    name = type(rule).__name__
    expected = [reference(v, step, bits, signed, name, wrap) for v in values]
    x = jnp.asarray(values / 64, jnp.float32)
    integer_bits = jnp.float32(bits - signed - 3)
    got = gradients.learned_point(
        x, integer_bits, bits=bits, signed=signed, rounding=rule, wrap=wrap
    )
    assert np.array_equal(got * 8, expected)


def test_steps_are_exact_powers_of_two():
    n = jnp.arange(-100.0, 100.0)
    ones = jax.vmap(lambda n: gradients.learned_point(jnp.exp2(n) * 1.1, n, bits=2))(n)
    assert np.array_equal(ones, np.ldexp(np.float32(1), np.arange(-101, 99)))


def test_the_binary_point_has_the_derived_gradient():
    x, n, bits = jnp.array([5.3, -2.2, 0.7, -90.0]), 2.0, 6
    step = 2.0 ** (n - 5)
    code = np.clip(np.round(np.asarray(x) / step), -32, 31)
    inside = np.abs(np.asarray(x) / step) < 31.5
    expected = np.log(2) * step * (code - inside * np.asarray(x) / step)
    for i in range(4):
        gx, gn = derivatives(lambda x, n: gradients.learned_point(x, n, bits=bits), x[i], n)
        assert float(gx) == inside[i]
        assert float(gn) == pytest.approx(expected[i], rel=1e-5)


def test_few_ones_keep_the_most_significant_or_the_nearest():
    x = jnp.arange(16.0)
    cut = {
        ones: gradients.fixed_code(
            x, bits=4, rounding=TowardZero(), codes=formats.k_hot(4, ones, signed=False)
        ).tolist()
        for ones in (1, 2)
    }
    assert cut[1] == [0, 1, 2, 2, 4, 4, 4, 4, 8, 8, 8, 8, 8, 8, 8, 8]
    assert cut[2] == [0, 1, 2, 3, 4, 5, 6, 6, 8, 9, 10, 10, 12, 12, 12, 12]
    for ones in (1, 2, 3):
        format = formats.k_hot(8, ones)
        values = np.asarray(gradients.fixed_code(jnp.arange(-127.0, 128.0), bits=8, codes=format))
        assert max(int(abs(v)).bit_count() for v in values) == ones
        best = np.abs(format.values()[None] - np.arange(-127, 128)[:, None]).min(1)
        assert np.array_equal(np.abs(values - np.arange(-127, 128)), best)
    assert float(gradients.fixed_code(jnp.float32(7), bits=5, codes=formats.k_hot(5, 1))) == 8
    with pytest.raises(ValueError, match=r"`k_hot` was asked for bits=1"):
        formats.k_hot(1, 1)
