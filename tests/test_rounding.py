"""Stochastic rounding is unbiased and its noise is independent, within stated sigmas."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qjax import casting, formats
from qjax import rounding as roundings
from qjax.rounding import Stochastic, derived, noise
from tests.families import ROUNDINGS

COUNT = 1 << 18
# One of each kind whose neighbours alternate between even and odd.
FAMILIES = [
    *(formats.E4M3FN, formats.E2M1FN, formats.E5M2, formats.E4M3FNUZ, formats.binary8p(3)),
    *(formats.Float(3, 2, signed=False), formats.Float(0, 3, family="finite")),
    *(formats.Float(2, 3, bias=9), formats.INT4, formats.UINT4, formats.Int(4, narrow=False)),
    *(formats.binary8p(1), formats.Float(3, 0, family="finite")),
    *(formats.Fixed(1, 3), formats.Fixed(1, 3, narrow=False, wrap=True), formats.UINT2),
]


@pytest.mark.parametrize("format", [formats.E4M3FN, formats.E2M1FN, formats.INT4, formats.E5M2])
@pytest.mark.parametrize("value", [0.3, -0.55, 1.1, 2.4, -3.9, 0.001])
def test_the_mean_is_the_value_within_five_sigma(format, value):
    x = jnp.full(COUNT, value)
    result = np.asarray(
        casting.cast(x, format, rounding=Stochastic(), key=jax.random.key(3)), np.float64
    )
    neighbours = np.unique(result)
    assert len(neighbours) == 2
    low, high = neighbours
    part = (float(np.float32(value)) - low) / (high - low)
    sigma = (high - low) * np.sqrt(part * (1 - part) / COUNT)
    assert abs(result.mean() - float(np.float32(value))) < 5 * sigma
    spread = (high - low) ** 2 * part * (1 - part)
    assert abs(result.var() / spread - 1) < 6 / np.sqrt(COUNT * part * (1 - part))


@pytest.mark.parametrize("format", [*FAMILIES, formats.NF4, formats.POW2], ids=lambda f: f.name)
def test_draws_have_the_mean_and_variance_of_a_fair_coin_in_every_gap(format):
    values, draws = format.values(), 4096
    gaps = np.unique(np.linspace(0, len(values) - 2, 24).astype(int))
    parts = np.linspace(0.05, 0.95, len(gaps))
    low, step = values[gaps], np.diff(values)[gaps]
    x = np.float32(low + parts * step)
    parts = (x.astype(np.float64) - low) / step
    rows = jnp.broadcast_to(jnp.asarray(x)[:, None], (len(gaps), draws))
    got = casting.cast(rows, format, rounding=Stochastic(), key=jax.random.key(11))
    up = (np.asarray(got, np.float64) - low[:, None]) / step[:, None]
    assert np.isin(up, (0, 1)).all()
    sigma = np.sqrt(parts * (1 - parts) / draws)
    assert (np.abs(up.mean(axis=1) - parts) < 5 * sigma).all()
    spread = parts * (1 - parts)
    kurtosis = np.sqrt(np.maximum(spread * (1 - 4 * spread), 1 / draws) / draws)
    assert (np.abs(up.var(axis=1) - spread) < 6 * kurtosis).all()


def test_values_on_the_grid_never_move():
    values = jnp.asarray(formats.E4M3FN.values(), jnp.float32)
    for seed in range(20):
        key = jax.random.key(seed)
        assert jnp.array_equal(
            casting.cast(values, formats.E4M3FN, rounding=Stochastic(), key=key), values
        )


@pytest.mark.parametrize("format", [formats.E4M3FN, formats.INT4, formats.FLOAT16, formats.NF4])
def test_zero_never_moves_whatever_is_drawn(format):
    x, least = jnp.array([0.0, -0.0, format.max]), jnp.zeros(3, jnp.uint32)
    for exponent in (None, jnp.int32(2), jnp.int32(-100)):
        scale = 1.0 if exponent is None else 2.0 ** int(exponent)
        got = casting.on_format(x * scale, format, Stochastic(), least, exponent=exponent)
        assert jnp.array_equal(got, x * scale)
        if not isinstance(format, formats.Codebook):  # bits that are arrays take the general way
            general = dataclasses.replace(format.grid, limit=jnp.int32(format.grid.limit))
            got = casting.on_grid(x * scale, general, Stochastic(), least, exponent=exponent)
            assert jnp.array_equal(got, x * scale)


def uniform(key, count=COUNT) -> np.ndarray:
    words = noise(key, jax.lax.iota(jnp.uint32, count))
    return np.asarray(words, np.float64) / 2**32 - 0.5


def correlation(a, b) -> float:
    """Correlation in units of its standard deviation under independence."""
    return float(np.mean(a * b) * 12 * np.sqrt(len(a)))


def test_noise_is_uniform():
    u = uniform(jax.random.key(0))
    counts = np.histogram(u, bins=256, range=(-0.5, 0.5))[0]
    expected = COUNT / 256
    chi = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi - 255) < 5 * np.sqrt(2 * 255)
    words = (u + 0.5) * 2**32
    for bit in range(32):
        ones = ((words.astype(np.uint64) >> bit) & 1).mean()
        assert abs(ones - 0.5) < 5 * 0.5 / np.sqrt(COUNT)


@pytest.mark.parametrize("lag", [1, 2, 3, 31, 32, 64, 255, 256, 1024, 4096])
def test_neighbours_are_uncorrelated(lag):
    u = uniform(jax.random.key(1))
    assert abs(correlation(u[:-lag], u[lag:])) < 5


def test_streams_of_related_keys_are_uncorrelated():
    keys = [jax.random.key(seed) for seed in range(8)]
    keys += list(jax.random.split(jax.random.key(9), 4))
    keys += [jax.random.fold_in(jax.random.key(0), step) for step in range(4)]
    # As legs and their operands have them, at two steps and on two devices.
    for step, leg, operand in itertools.product(range(2), range(3), range(2)):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(1), step), leg)
        keys.append(jax.random.fold_in(key, operand))
    keys += [derived(jax.random.key(3), number) for number in range(1, 7)]
    keys += [derived(jax.random.key(3, impl="rbg"), number) for number in (1, 2)]
    streams = [uniform(key, 1 << 16) for key in keys]
    for i, a in enumerate(streams):
        for b in streams[:i]:
            for lag in (0, 1, 7):
                assert abs(correlation(a[lag:], b[: len(b) - lag])) < 5.5


def test_noise_is_the_same_for_raw_and_typed_keys_and_under_jit():
    index = jax.lax.iota(jnp.uint32, 100)
    key = jax.random.key(7)
    raw = jax.random.key_data(key)
    assert jnp.array_equal(noise(key, index), noise(raw, index))
    assert jnp.array_equal(noise(key, index), jax.jit(noise)(key, index))


def test_few_bits_need_a_legal_number():
    with pytest.raises(ValueError, match="bits=25"):
        Stochastic(bits=25)


def expected_neighbour(rule, low, high, part, index):
    """Which neighbour a rule should choose, from its definition; `index` counts from zero."""
    positive = low >= 0
    tie = part == 0.5
    nearer = high if part > 0.5 else low
    inner, outer = (low, high) if positive else (high, low)
    even = low if index % 2 == 0 else high
    return {
        "NearestEven": even if tie else nearer,
        "NearestAway": outer if tie else nearer,
        "NearestZero": inner if tie else nearer,
        "NearestUp": high if tie else nearer,
        "NearestDown": low if tie else nearer,
        "TowardZero": inner,
        "AwayFromZero": outer,
        "Floor": low,
        "Ceil": high,
        "ToOdd": high if even == low else low,
    }[type(rule).__name__]


@pytest.mark.parametrize("rule", [r for r in ROUNDINGS if not r.stochastic], ids=repr)
@pytest.mark.parametrize("format", FAMILIES, ids=lambda f: f.name)
def test_every_gap_rounds_as_defined_subnormals_included(format, rule):
    values = format.values()
    # Even is the code without sign, which a format without zero begins at its smallest value.
    zero = int(np.flatnonzero(values == 0)[0]) if 0 in values else 0
    points, expected = [], []
    for i, (low, high) in enumerate(itertools.pairwise(values)):
        for part in (1 / 16, 0.25, 0.5, 0.75, 15 / 16):
            points.append(low + part * (high - low))
            expected.append(expected_neighbour(rule, low, high, part, i - zero))
    got = casting.cast(jnp.asarray(points, jnp.float32), format, rounding=rule)
    assert np.array_equal(np.asarray(got), np.asarray(expected, np.float32))


@pytest.mark.parametrize("rule", [r for r in ROUNDINGS if not r.stochastic], ids=repr)
@pytest.mark.parametrize("family", ["ieee", "fn", "fnuz", "inuz"])
def test_beyond_the_largest_value_the_rule_decides_between_it_and_what_overflows(family, rule):
    format = formats.Float(3, 2, family=family)
    grown = dataclasses.replace(format, saturate=False)
    top, step = format.max, format.max - format.values()[-2]
    beyond = np.nan if family in ("fn", "fnuz") else np.inf
    index = len(format.values()) // 2
    for part in (1 / 16, 0.25, 0.5, 0.75, 15 / 16):
        x = np.float32([top + part * step, -top - part * step])
        high = expected_neighbour(rule, top, top + step, part, index)
        low = expected_neighbour(rule, -top - step, -top, 1 - part, -index - 1)
        wanted = [high if high == top else beyond, low if low == -top else -beyond]
        assert casting.cast(jnp.asarray(x), format, rounding=rule).tolist() == [top, -top]
        got = np.asarray(casting.cast(jnp.asarray(x), grown, rounding=rule))
        assert np.array_equal(got, np.float32(wanted), equal_nan=True)


@pytest.mark.parametrize("rule", ROUNDINGS, ids=repr)
@pytest.mark.parametrize(
    "format", [formats.E4M3FN, formats.INT4, formats.NF4], ids=lambda f: f.name
)
def test_values_on_the_grid_stay_and_large_ones_saturate(format, rule):
    x = jnp.asarray([*format.values(), 1e9, -1e9], jnp.float32)
    key = jax.random.key(0) if rule.stochastic else None
    got = np.asarray(casting.cast(x, format, rounding=rule, key=key), np.float64)
    ends = [format.values().max(), format.values().min()]
    assert np.array_equal(got, np.float32([*format.values(), *ends]))


@pytest.mark.parametrize("value", [1e-30, 1e-42])
def test_directed_rules_see_the_smallest_numbers_but_not_zero(value):
    x = jnp.asarray(np.float32([value, -value, 0.0, -0.0]))
    tiny = formats.E4M3FN.smallest_subnormal
    cast = functools.partial(casting.cast, x, formats.E4M3FN)
    assert cast(rounding=roundings.AwayFromZero()).tolist() == [tiny, -tiny, 0, 0]
    assert cast(rounding=roundings.Ceil()).tolist() == [tiny, 0, 0, 0]
    assert cast(rounding=roundings.Floor()).tolist() == [0, -tiny, 0, 0]


@pytest.mark.parametrize("rule", ROUNDINGS, ids=repr)
def test_where_there_is_no_zero_it_becomes_the_smallest_value(rule):
    key = jax.random.key(0) if rule.stochastic else None
    for format in (formats.E8M0FNU, formats.PowerOfTwo(3, signed=True, nan=False)):
        got = casting.cast(jnp.zeros(5), format, rounding=rule, key=key)
        assert (np.asarray(got) == format.values()[format.values() > 0][0]).all()


def test_shared_noise_is_one_draw_along_its_axes():
    x = jnp.full((64, 50), 0.3)
    rule = Stochastic(shared=(0,))
    result = np.asarray(casting.cast(x, formats.INT4, rounding=rule, key=jax.random.key(2)))
    assert (result == result[0]).all()
    assert 0 < result[0].mean() < 1


def test_few_bits_are_unbiased_up_to_their_resolution():
    x = jnp.full(COUNT, 0.3)
    rule = Stochastic(bits=3)
    result = casting.cast(x, formats.INT4, rounding=rule, key=jax.random.key(4))
    # Draws at the middles of eighths: 0.3 exceeds those of 1/16 and 3/16 only.
    assert abs(float(result.mean()) - 2 / 8) < 5 * np.sqrt(3 / 16 / COUNT)


def test_table_draws_are_unbiased():
    x = jnp.full(COUNT, -0.6)
    result = casting.cast(x, formats.NF4, rounding=Stochastic(), key=jax.random.key(4))
    assert abs(float(result.mean()) + 0.6) < 5 * 0.18 / np.sqrt(COUNT)


def test_even_a_draw_of_zero_leaves_values_so_that_those_on_the_grid_never_move():
    whole, zeros = jnp.array([0.0, 1.0, 7.0]), jnp.zeros(3, jnp.uint32)
    assert jnp.array_equal(Stochastic()(whole, whole < 0, zeros), whole)
    assert jnp.array_equal(Stochastic()(whole + 0.25, whole < 0, zeros), whole + 1)


@pytest.mark.parametrize(("axis", "shape"), [(2, (2, 4)), (0, ()), (-3, (2, 4))])
def test_noise_cannot_be_shared_along_an_axis_that_is_not_there(axis, shape):
    with pytest.raises(ValueError, match=r"shares a draw along axis.*dimension"):
        Stochastic(shared=(axis,)).noise(jax.random.key(0), shape)
