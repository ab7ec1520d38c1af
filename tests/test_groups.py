"""Scales that fall by powers of two from one float, and bounds from two moments."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import calibration, qtypes
from qjax.formats import Int
from qjax.quantizer import Quantizer
from qjax.rounding import NearestEven, Stochastic

RANGES = np.float32([1, 0.6, 0.26, 0.12, 0.05, 0.011])


def channels(ranges, rows=64, seed=0):
    """Uniform columns that reach their ranges exactly; rows are kept, columns contracted."""
    x = jax.random.uniform(jax.random.key(seed), (rows, len(ranges)), minval=-1, maxval=1)
    return x.at[0].set(1.0) * jnp.asarray(ranges)


def test_groups_of_powers_of_two_follow_the_worked_example():
    assert calibration.power_groups(RANGES, 4).tolist() == [0, 0, 1, 3, 3, 3]
    stored = qjax.encode(channels(RANGES), qtypes.shift_groups(4, 4))
    scales = np.asarray(stored.scale.decode()).ravel()
    assert (scales / scales[0]).tolist() == [1, 1, 0.5, 0.125, 0.125, 0.125]
    assert np.abs(np.asarray(stored.qvalue)).max(axis=0)[:4].tolist() == [7, 4, 4, 7]


@pytest.mark.parametrize("groups", [2, 8])
def test_snapped_scales_hold_their_channel_and_no_smaller_power_does(groups):
    ranges = np.exp(np.random.default_rng(groups).normal(size=200) * 3).astype(np.float32)
    # Exact halves, their neighbours, and a channel of zeros.
    top = ranges.max()
    ranges[:5] = [top / 2, np.nextafter(top / 2, 0), np.nextafter(top / 2, top), top / 4, 0]
    stored = qjax.encode(channels(ranges, 2), qtypes.shift_groups(6, groups))
    powers = np.asarray(stored.scale.qtype.format.load(stored.scale.qvalue), np.float64).ravel()
    assert (top * powers >= ranges)[powers > 2.0 ** (1 - groups)].all()
    assert (top * powers / 2 < ranges)[powers > 2.0 ** (1 - groups)].all()
    assert np.array_equal(-np.log2(powers), calibration.power_groups(ranges, groups))


def test_shifts_and_one_scale_equal_the_dequantized_product_bit_for_bit():
    ranges = np.exp(np.random.default_rng(1).normal(size=32) * 1.2).astype(np.float32)
    x = qjax.encode(channels(ranges), qtypes.shift_groups(4, 4))
    w = np.random.default_rng(2).integers(-7, 8, size=(32, 5))
    down = -np.log2(np.asarray(x.scale.qtype.format.load(x.scale.qvalue))).astype(int)
    shifted = (np.asarray(x.qvalue, np.int64) << (3 - down)) @ w
    whole = np.float64(x.scale.scale.decode().ravel()[0])
    values = np.asarray(x.qvalue, np.float64) * np.asarray(x.scale.decode(), np.float64)
    assert np.array_equal(shifted * (whole / 8), values @ w)


def test_groups_order_the_noise_between_tensor_and_channel():
    ranges = np.exp(np.random.default_rng(3).normal(size=64) * 1.2).astype(np.float32)
    x = channels(ranges, 256)
    named = [qtypes.QType(Int(4), qjax.Tile(), "float32")]
    named += [qtypes.shift_groups(4, groups) for groups in (2, 4, 16)]
    named += [qtypes.QType(Int(4), qjax.Tile(1, None), "float32")]
    errors = []
    for qtype in named:
        cast = Quantizer(qtype, rounding=Stochastic()).cast(x, key=jax.random.key(0))
        errors.append(float(jnp.mean(jnp.mean((cast - x) ** 2, 0) / jnp.mean(x**2, 0))))
    assert errors == sorted(errors, reverse=True)
    assert errors[-2] < 4 * errors[-1]


def brute_force(ranges, groups):
    """The least sum of squared group ranges over every assignment of channels to groups."""
    best = np.inf
    for assignment in itertools.product(range(groups), repeat=len(ranges)):
        group = np.asarray(assignment)
        top = [ranges[group == j].max(initial=0) for j in range(groups)]
        best = min(best, sum(top[j] ** 2 for j in assignment))
    return best


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_the_best_groups_equal_brute_force_and_powers_come_close(groups):
    for seed in range(5):
        ranges = np.exp(np.random.default_rng(seed).normal(size=7) * 1.2)
        group = calibration.best_groups(ranges, groups)
        top = np.array([ranges[group == j].max(initial=0) for j in range(groups)])
        assert np.sum(top[group] ** 2) == pytest.approx(brute_force(ranges, groups), rel=1e-12)
        # Power-of-two scales: no other group among them does better for any channel.
        power = calibration.power_groups(ranges, groups)
        scales = ranges.max() * 2.0**-power
        for j in range(groups):
            fits = ranges.max() * 2.0**-j >= ranges
            assert (scales[fits] <= ranges.max() * 2.0**-j).all()


def test_mistakes_in_grouping_say_what_to_do():
    with pytest.raises(ValueError, match=r"2, 4, 8"):
        qtypes.shift_groups(4, 3)
    with pytest.raises(ValueError, match="at least one group"):
        calibration.best_groups([1.0], 0)
    qtype = qtypes.shift_groups(4)
    with pytest.raises(ValueError, match="rounded up"):
        Quantizer(qtype, scale=Quantizer(qtype.scale, rounding=NearestEven()))


def test_an_outer_scale_takes_what_inner_powers_exceed_one_by():
    x = channels(RANGES)
    plain = qjax.cast(x, qtypes.shift_groups(4, 256))
    same = qjax.cast(x, "int4:multi_float32_e8m0_t1_t0")
    assert jnp.array_equal(plain, same)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_moments_clip_gaussians_near_the_least_error(bits):
    x = jax.random.normal(jax.random.key(0), (1, 1 << 14))
    qtype = qtypes.QType(Int(bits), qjax.Tile(), "float32")

    @jax.jit
    @jax.vmap
    def error(clip):
        cast = Quantizer(qtype, calibration=calibration.Fixed(clip)).cast(x)
        return jnp.mean((cast - x) ** 2)

    bound = calibration.sawb(bits)(x, (0, 1))[0].view(jnp.float32).ravel()
    errors = error(jnp.concatenate([bound, jnp.linspace(0.8, 4.5, 38)]))
    assert float(errors[0]) < 1.12 * float(errors[1:].min())


def test_moments_without_a_positive_bound_leave_the_maximum():
    quantizer = Quantizer("int4_channel", calibration=calibration.sawb(4))
    x = jnp.stack([jnp.full(32, 3.0), jnp.zeros(32), jnp.full(32, jnp.nan)])
    result = np.asarray(quantizer.cast(x))
    assert result[0].tolist() == pytest.approx([3.0] * 32, rel=1e-6)
    assert (result[1] == 0).all()
    assert np.isnan(result[2]).all()
    with pytest.raises(ValueError, match="2, 3, 4, 5, 8"):
        calibration.sawb(6)


def test_snapping_reaches_from_the_largest_to_the_smallest_floats():
    x = jnp.asarray(np.float32([[3e38, 1e-38, 0.0, 2.0**-149, 1.0]]))
    stored = qjax.encode(x, qtypes.shift_groups(8, 4))
    powers = np.asarray(stored.scale.qtype.format.load(stored.scale.qvalue)).ravel()
    assert powers.tolist() == [1, 0.125, 0.125, 0.125, 0.125]
