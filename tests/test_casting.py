"""The kernel at its edges: NaN, infinities, signed zeros, subnormals, float64, bad input."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qjax import casting, formats
from qjax import rounding as roundings
from qjax.casting import _relative
from qjax.rounding import Stochastic


def test_nan_stays_nan_and_infinity_saturates():
    x = jnp.array([jnp.nan, jnp.inf, -jnp.inf])
    for format in (formats.E4M3FN, formats.E2M1FN, formats.INT8):
        result = casting.cast(x, format)
        assert np.array_equal(result, [np.nan, format.max, -format.max], equal_nan=True)


def test_signed_zero_is_kept_where_the_format_has_it():
    x = jnp.array([0.0, -0.0, -1e-30])
    assert np.array_equal(np.signbit(casting.cast(x, formats.E4M3FN)), [False, True, True])
    assert not np.signbit(casting.cast(x, formats.E4M3FNUZ)).any()


def test_float32_subnormals_are_rounded_although_the_processor_may_flush_them():
    bits = np.arange(1, 1 << 23, 4099, dtype=np.int32)
    x = bits.view(np.float32)
    expected = x.astype(formats.BFLOAT16.dtype).astype(np.float32)
    result = np.asarray(casting.cast(jnp.asarray(x), formats.BFLOAT16))
    assert np.array_equal(result.view(np.int32), expected.view(np.int32))
    same = np.asarray(casting.cast(jnp.asarray(x), formats.FLOAT32))
    assert np.array_equal(same.view(np.int32), bits)


def test_float64_is_rounded_once():
    with jax.enable_x64(True):
        # Just above the tie of 1 and 1.125: through float32 it would become the tie, then 1.
        x = np.array([1.0625 + 2.0**-40, 1.0625 - 2.0**-40, 1.0625, -1.0625 - 2.0**-40, 1e300, 0.0])
        result = casting.cast(jnp.asarray(x), formats.E4M3FN)
        assert result.dtype == jnp.float64
        assert np.array_equal(result, [1.125, 1.0, 1.0, -1.125, 448.0, 0.0])
        assert np.array_equal(casting.cast(jnp.array([np.nan, 1e-320]), formats.E5M2)[1:], [0.0])


@pytest.mark.parametrize("digits", [21, 22, 23])
def test_float64_is_rounded_once_to_the_finest_grids(digits):
    rng = np.random.default_rng(0)
    ties = (np.arange(1 << 10) + 0.5) * 2.0**-digits
    x = np.concatenate([rng.uniform(-1, 1, 1 << 12), ties, ties * (1 + 2.0**-40)])
    limit = 1 - 2.0**-digits
    expected = np.clip(np.rint(x * 2.0**digits) * 2.0**-digits, -limit, limit)
    with jax.enable_x64(True):
        format = formats.Fixed(0, digits)
        assert np.array_equal(casting.cast(jnp.asarray(x), format), expected)
        traced = jax.jit(lambda x, format: casting.cast(x, format))(jnp.asarray(x), format)
        assert np.array_equal(traced, expected)


def test_float64_becomes_every_float32_that_there_is():
    rng = np.random.default_rng(0)
    x = rng.standard_normal(1 << 14) * np.exp2(rng.integers(-155, 128, 1 << 14))
    x = np.concatenate([x, [1 + 2.0**-24, 1 + 3 * 2.0**-24, 1 + 2.0**-24 + 2.0**-50, 2.0**-150]])
    top = float(np.finfo(np.float32).max)
    x = np.concatenate([x, [top * (1 + 2.0**-30), top, 1e300, -1e-320, 0.0]])
    with np.errstate(over="ignore"):
        expected = np.clip(x.astype(np.float32).astype(np.float64), -top, top)
    with jax.enable_x64(True):
        assert np.array_equal(casting.cast(jnp.asarray(x), formats.FLOAT32), expected)
        # Subnormal results, which a conversion to float64 would flush.
        assert casting.cast(jnp.array([2.0**-133]), formats.BFLOAT16)[0] == 2.0**-133


@pytest.mark.parametrize("bias", [100, 118, 122])
def test_small_spacings_leave_zero_where_it_is_and_halve_rightly(bias):
    format = formats.Float(4, 3, family="finite", bias=bias)
    zeros = jnp.zeros(1 << 16).at[0].set(1e-45)
    assert not casting.cast(zeros, format, rounding=Stochastic(), key=jax.random.key(0)).any()
    step = 2.0 ** (1 - bias - 3)
    x = jnp.array([0.5, 0.500001, 1.5, 2.5], jnp.float32) * np.float32(step)
    assert np.array_equal(casting.cast(x, format), np.array([0, 1, 2, 2]) * step)
    wide = formats.Float(8, 0, bias=127)  # its smallest number is float32's smallest normal one
    tiny = np.array([0, 1, 1 << 22, (1 << 22) + 1], np.int32).view(np.float32)
    assert np.array_equal(casting.cast(jnp.asarray(tiny), wide), [0, 0, 0, 2.0**-126])


@pytest.mark.parametrize("name", ["uint4", "e8m0", "fixed2.1wrap", "pow2"])
def test_programs_of_64_bits_cast_to_the_same_bits(name):
    x = np.linspace(-9, 9, 64, dtype=np.float32)
    expected = np.asarray(casting.cast(jnp.asarray(x), formats.parse(name)))
    with jax.enable_x64(True):
        for cast in (casting.cast, jax.jit(lambda x, format: casting.cast(x, format))):
            assert np.array_equal(cast(jnp.asarray(x), formats.parse(name)), expected)


def test_integer_arrays_are_refused():
    with pytest.raises(TypeError, match=r"int32.*astype"):
        casting.cast(jnp.arange(3), formats.E4M3FN)


def test_stochastic_rounding_needs_a_key():
    with pytest.raises(ValueError, match="key"):
        casting.cast(jnp.ones(3), formats.E4M3FN, rounding=Stochastic())
    with pytest.raises(TypeError, match=r"jax\.random\.key"):
        casting.cast(jnp.ones(3), formats.E4M3FN, rounding=Stochastic(), key=0)


def test_a_hundred_formats_given_as_data_share_one_compilation():
    traces = []

    @jax.jit
    def cast(x, format):
        traces.append(format)
        return casting.cast(x, format)

    x = jnp.linspace(-3, 3, 101)
    results = set()
    for exponent_bits in range(1, 6):
        for mantissa_bits in range(1, 11):
            for bias in (3, 7):
                format = formats.Float(exponent_bits, mantissa_bits, family="finite", bias=bias)
                results.add(np.asarray(cast(x, format)).tobytes())
    assert len(traces) == 1
    assert len(results) > 50


# Exponents of scales; the largest is what takes a format's largest value to the end of float32.
EDGES = [-150, -140, -128, -127, -126, -60, -23, -22, -2, -1, 0, 1, 3, 60, 100]
WAYS = [
    (formats.E4M3FN, roundings.NearestEven()),
    (formats.E5M2, roundings.Stochastic()),
    (formats.E2M1FN, roundings.NearestEven()),
    (formats.E2M3FN, roundings.AwayFromZero()),
    (formats.INT8, roundings.NearestEven()),
    (formats.Int(4, narrow=False), roundings.Floor()),
    (formats.UINT4, roundings.NearestAway()),
    (formats.UINT4, roundings.NearestEven()),
    (formats.Fixed(1, 6), roundings.NearestEven()),
    (formats.Int(4, narrow=False), roundings.NearestEven()),
    (formats.E4M3FNUZ, roundings.NearestEven()),
    (formats.POW2, roundings.ToOdd()),
    (formats.FLOAT16, roundings.NearestEven()),
]


@pytest.mark.parametrize(("format", "rounding"), WAYS, ids=lambda part: getattr(part, "name", ""))
def test_both_ways_give_the_same_bits(format, rounding):
    rng = np.random.default_rng(0)
    words = rng.integers(0, 1 << 32, size=1 << 13, dtype=np.uint32)
    words[::4] &= 0x81FFFFFF  # near and below float32's smallest normal number
    words[1::4] = (words[1::4] & 0x83FFFFFF) + np.uint32(120 << 23)
    words[2::4] = (words[2::4] & 0x80FFFFFF) + np.uint32(100 << 23)
    words[:2] = 0, 1 << 31
    x, noise = jnp.asarray(words.view(np.float32)), jnp.asarray(words[::-1].copy())
    assert _relative.fits(format.grid)
    # A grid whose numbers are arrays takes the general way.
    general = dataclasses.replace(format.grid, limit=jnp.int32(format.grid.limit))
    assert not _relative.fits(general)
    options = {"rounding": rounding, "noise": noise}

    def bits(grid, exponents, relative):
        def cast(exponent):
            bad = jnp.arange(1 << 13) % 7 == 3
            highest = None if exponent is None else jnp.where(bad, -1, formats.INFINITY)
            scale = {"exponent": exponent, "relative": relative, "highest": highest}
            return casting.on_grid(x, grid, **options, **scale).view(jnp.uint32)

        return jax.jit(jax.vmap(cast) if exponents is not None else cast)(exponents)

    assert jnp.array_equal(bits(format.grid, None, False), bits(general, None, False))
    top = 127 - format.max_exponent
    exponents = jnp.array([*(e for e in EDGES if e < top), top])
    for relative in (False, True):
        short, long = (bits(grid, exponents, relative) for grid in (format.grid, general))
        assert jnp.array_equal(short, long)


@pytest.mark.parametrize(
    ("format", "rounding"), WAYS[:7], ids=lambda part: getattr(part, "name", "")
)
def test_scales_made_ready_give_the_same_bits(format, rounding):
    grid, exponents = format.grid, jnp.array([e for e in EDGES if e < 127 - format.max_exponent])
    words = np.random.default_rng(1).integers(0, 1 << 32, size=1 << 12, dtype=np.uint32)
    words[::3] &= 0x81FFFFFF
    words[:2] = 0, 1 << 31
    every, noise = jnp.asarray(words.view(np.float32)), jnp.asarray(words[::-1].copy())
    bad = jnp.arange(1 << 12) % 7 == 3

    @functools.partial(jax.jit, static_argnames=("relative", "least"))
    @functools.partial(jax.vmap, in_axes=(0, None, None))
    def both(exponent, relative, least):
        bounded = least is not None
        # Beyond this an element has not the scale of its tile; NaN has one that is NaN.
        top = jnp.exp2((exponent + format.max_exponent + 2).clip(-126, 127).astype(jnp.float32))
        x = jnp.where(bad | (jnp.abs(every) < top), every, 1e-38 * top) if bounded else every
        x = jnp.where(words == 1 << 31, every, x)
        options = {"relative": relative, "exponent": exponent}
        highest = jnp.where(bad, -1, formats.INFINITY)
        long = casting.on_grid(x, grid, rounding, noise, highest=highest, **options)
        shift = casting.shift_of(grid, exponent, bad, bounded=bounded, least=least)
        short = casting.on_shifted(x, grid, rounding, noise, shift, relative)
        return long.view(jnp.uint32), short.view(jnp.uint32)

    for relative in (False, True):
        assert jnp.array_equal(*both(exponents, relative, None))
    assert jnp.array_equal(*both(exponents, False, min(EDGES)))
    assert jnp.array_equal(*both(exponents[exponents >= -127], False, -127))


@pytest.mark.parametrize("format", [w[0] for w in WAYS], ids=lambda format: format.name)
def test_casts_that_know_their_scale_give_the_same_bits_with_it(format):
    words = np.random.default_rng(2).integers(0, 1 << 32, size=(32, 256), dtype=np.uint32)
    words[8:16] = (words[8:16] & 0x83FFFFFF) + np.uint32(120 << 23)
    words[16:24] = (words[16:24] & 0x8000FFFF) + np.uint32(127 << 23)  # about ties
    words[:, :2] = 0, 1 << 31
    x = words.view(np.float32).copy()
    scale = np.where(np.isnan(x).any(1, keepdims=True), np.float32(np.nan), np.float32(0.37))
    scale[3] = np.nan

    @functools.partial(jax.jit, static_argnames="known")
    def cast(x, scale, known):
        each = jnp.broadcast_to(scale, x.shape)
        x = x * scale
        return casting.on_grid(x, format.grid, scale=each if known else None) * scale

    x, scale = jnp.asarray(x), jnp.asarray(scale)
    left, right = (cast(x, scale, known).view(jnp.uint32) for known in (True, False))
    assert jnp.array_equal(left, right)
    assert jnp.isnan(cast(x, scale, True)[3]).all()
