"""Laws that every format keeps, and the reading of names."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qjax import casting, formats
from qjax import rounding as roundings
from qjax.formats import Fixed, Float, Int, PowerOfTwo
from tests.families import FORMATS, label

NAMESPACE = {
    "Float": Float,
    "Int": Int,
    "Fixed": Fixed,
    "PowerOfTwo": PowerOfTwo,
    "Dyadic": formats.Dyadic,
    "Codebook": formats.Codebook,
}
SMALL = [f for f in FORMATS if f.width <= 16]


@pytest.mark.parametrize("format", FORMATS, ids=label)
def test_repr_and_name_round_trip(format):
    assert eval(repr(format), NAMESPACE) == format
    assert formats.parse(format.name) == format
    assert hash(formats.parse(format.name)) == hash(format)


@pytest.mark.parametrize("format", SMALL, ids=label)
def test_every_value_casts_to_itself_and_has_one_code(format):
    values = jnp.asarray(format.values(), jnp.float32)
    assert np.array_equal(np.asarray(values, np.float64), format.values())
    assert jnp.array_equal(casting.cast(values, format), values)
    assert jnp.array_equal(format.decode(format.encode(values)), values)
    largest = values.max() if format in (Int(8, narrow=False),) else np.abs(values).max()
    assert float(largest) == format.max


@pytest.mark.parametrize("format", SMALL, ids=label)
def test_values_between_two_neighbours_round_to_the_nearer(format):
    values = format.values()
    low, high = values[:-1], values[1:]
    for part in (0.25, 0.75):
        if isinstance(format, formats.Codebook) and format.bounds is not None:
            return
        between = (low + part * (high - low)).astype(np.float32)
        exact = between == low + part * (high - low)
        nearer = (low if part < 0.5 else high).astype(np.float32)
        got = np.asarray(casting.cast(jnp.asarray(between), format))
        assert exact.any()
        assert np.array_equal(got[exact], nearer[exact])


@pytest.mark.parametrize("format", SMALL, ids=label)
def test_cast_is_monotone_and_saturates(format):
    low = format.values().min()
    if getattr(format, "saturate", True):
        ends = [low, format.values().max()]
        assert casting.cast(jnp.array([-np.inf, np.inf]), format).tolist() == ends
    grid = np.linspace(low, format.max, 4097).astype(np.float32)
    assert np.all(np.diff(np.asarray(casting.cast(jnp.asarray(grid), format))) >= 0)


@pytest.mark.parametrize("format", FORMATS, ids=label)
def test_traced_bits_give_the_same_facts(format):
    if isinstance(format, formats.Codebook) and len(format.table) > 16:
        return
    traced = jax.jit(lambda f: (f.max + 0.0, f.max_exponent + 0))(format)
    assert float(traced[0]) == format.max
    assert int(traced[1]) == format.max_exponent


@pytest.mark.parametrize(
    "build",
    [
        lambda n: Int(n),
        lambda n: Fixed(1, n),
        lambda n: Float(n, 3),
        lambda n: Float(4, 3, bias=n),
        lambda n: PowerOfTwo(n),
    ],
)
def test_widths_that_are_no_integers_are_refused_traced_or_not(build):
    for width in (4.0, np.float32(4), jnp.float32(4)):
        with pytest.raises(TypeError, match=r"not an integer.*astype"):
            build(width)
    with pytest.raises(TypeError, match=r"not an integer.*astype"):
        jax.jit(lambda n: casting.cast(jnp.ones(3), build(n)))(4.0)
    assert build(np.int64(4)) == build(4)
    assert build(np.int64(4)).static


@pytest.mark.parametrize("family", ["ieee", "fn", "finite", "fnuz", "inuz"])
@pytest.mark.parametrize("exponent_bits", [0, 1, 3, 8])
def test_values_are_those_of_the_definition_of_codes(exponent_bits, family):
    for mantissa_bits in (1, 4):
        count = 1 << (exponent_bits + mantissa_bits)
        bias = ((1 << exponent_bits) >> 1) - (family not in ("fnuz", "inuz"))
        fields = [divmod(code, 1 << mantissa_bits) for code in range(count)]
        sizes = [
            (part / 2**mantissa_bits + (field > 0)) * 2.0 ** (max(field, 1) - bias)
            for field, part in fields
        ]
        if family == "ieee":
            sizes = sizes[: count - (1 << mantissa_bits)]
        sizes = sizes[:-1] if family in ("fn", "inuz") else sizes
        build = functools.partial(Float, exponent_bits, mantissa_bits, family=family)
        if len(sizes) < 2:
            with pytest.raises(ValueError, match="no number but zero"):
                build()
        elif sizes[-1] >= 2.0**128:
            with pytest.raises(ValueError, match=r"beyond 2\*\*128"):
                build()
        else:
            listed = np.unique([*sizes, *(-size for size in sizes)]) + 0.0
            assert np.array_equal(build().values(), listed)
            assert build().max == sizes[-1]


def test_codes_of_traced_bits_are_refused():
    with pytest.raises(TypeError, match="bits are traced"):
        jax.jit(lambda f, x: f.encode(x))(formats.E4M3FN, jnp.ones(3))


@pytest.mark.parametrize(
    ("name", "near"), [("e4m3fm", "e4m3fn"), ("bfloat61", "bfloat16"), ("unt8", "uint8")]
)
def test_misspelt_names_list_near_names(name, near):
    with pytest.raises(ValueError, match=near):
        formats.parse(name)


def test_bare_e4m3_is_refused_with_both_readings():
    with pytest.raises(ValueError, match=r"448.*240"):
        formats.parse("e4m3")
    assert formats.parse("float8_e4m3") == formats.E4M3
    assert formats.parse("float8_e4m3fn") == formats.E4M3FN


@pytest.mark.parametrize(
    "build",
    [
        lambda: Float(9, 3),
        lambda: Float(4, 24),
        lambda: Float(4, 3, family="ocp"),
        lambda: Int(1),
        lambda: Int(25),
        lambda: Fixed(12, 12),
        lambda: PowerOfTwo(9),
        lambda: PowerOfTwo(8, nan=False),  # ends at 2**128
        lambda: PowerOfTwo(1, signed=True, zero=True),  # zero and NaN
        lambda: Float(1, 2, subnormals=False),  # zero alone
        lambda: Fixed(-2, 2),
    ],
)
def test_impossible_widths_are_refused(build):
    with pytest.raises(ValueError, match=r"asked|takes"):
        build()


@pytest.mark.parametrize(
    "format",
    [
        *(Fixed(-2, 5), Fixed(5, -3), Fixed(3, -1, signed=False, wrap=True)),
        *(Fixed(2, 1, signed=False, narrow=False), Int(4, signed=False, narrow=False)),
    ],
)
def test_numbers_with_the_point_outside_and_meaningless_choices_keep_their_names(format):
    assert formats.parse(format.name) == format


@pytest.mark.parametrize(
    "rounding", [roundings.NearestEven(), roundings.NearestAway(), roundings.ToOdd()]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "format", [formats.NF4, formats.parse("dynamic6"), formats.power_law(4, 0.5)]
)
def test_tables_round_exactly_at_the_bounds_of_their_entries(format, dtype, rounding):
    table = np.array(format.table)
    middles = np.array(format.midpoints())
    near = middles.astype(dtype)
    x = np.concatenate([table, near, *(np.nextafter(near, dtype(end)) for end in (-9, 9))])
    x = x.astype(dtype)
    with jax.enable_x64(dtype == np.float64):
        result = np.asarray(casting.cast(jnp.asarray(x), format, rounding=rounding), np.float64)
    index = np.clip(np.searchsorted(table, x, side="right") - 1, 0, len(middles) - 1)
    tie = {"NearestAway": x > 0, "NearestEven": index % 2 == 1}.get(type(rounding).__name__)
    up = (x > middles[index]) | ((x == middles[index]) & tie) if tie is not None else index % 2 == 0
    up = np.where(np.isin(x, table), x == table[index + 1], up)
    assert np.array_equal(result, table[index + up])


def test_overflow_goes_to_infinity_or_nan_where_asked():
    ieee, fn = Float(5, 2, saturate=False), Float(4, 3, family="fn", saturate=False)
    x = jnp.array([61439.0, 61440.0, -1e6, np.inf])
    assert casting.cast(x, ieee).tolist() == [57344.0, np.inf, -np.inf, np.inf]
    result = np.asarray(casting.cast(jnp.array([464.0, 465.0, np.inf]), fn))
    assert np.array_equal(result, [448.0, np.nan, np.nan], equal_nan=True)
    with pytest.raises(ValueError, match="finite"):
        Float(2, 1, family="finite", saturate=False)


def test_tables_of_quantiles_match_the_published_one():
    built = np.asarray(formats.normal_float(4).table)
    assert np.abs(built - np.asarray(formats.NF4.table)).max() < 1e-6


def test_a_learned_table_is_a_fixed_point_of_means_and_midpoints():
    samples = np.random.default_rng(0).normal(size=4000)
    table = formats.lloyd_max(samples, 8)
    codes = np.asarray(table.encode(jnp.asarray(samples, jnp.float32)))
    means = [samples[codes == code].mean() for code in range(8)]
    assert np.allclose(means, table.table, atol=1e-3)
    even = np.linspace(samples.min(), samples.max(), 8)
    error = (samples - np.asarray(table.decode(jnp.asarray(codes)))) ** 2
    assert error.mean() < (np.abs(samples[:, None] - even).min(axis=1) ** 2).mean()


def test_companding_rounds_in_its_own_domain():
    table = formats.power_law(4, 0.5)
    x = np.linspace(-1, 1, 999).astype(np.float32)
    companded = np.sign(x) * np.round(np.sqrt(np.abs(x.astype(np.float64))) * 7)
    expected = np.sign(companded) * (companded / 7) ** 2
    got = np.asarray(casting.cast(jnp.asarray(x), table))
    assert np.mean(np.isclose(got, expected)) > 0.99


def test_special_values_join_a_format():
    table = formats.with_special(Float(2, 0, family="finite"), 3.0)
    assert casting.cast(jnp.array([2.9, 3.2, -3.2]), table).tolist() == [3.0, 3.0, -4.0]


def test_fourth_roots_of_unity_take_the_nearest_angle():
    x = jnp.array([2 + 1j, -1 + 3j, -5 - 1j, 1 - 2j], jnp.complex64)
    assert casting.cast(x, formats.ROOTS4).tolist() == [1, 1j, -1, -1j]
    assert formats.ROOTS4.encode(x).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("signed", [True, False])
def test_wrapping_keeps_the_last_bits_of_the_rounded_integer(signed):
    format = Fixed(2, 3, signed=signed, narrow=False, wrap=True)
    assert formats.parse(format.name) == format
    rng = np.random.default_rng(0)
    x = np.float32([*rng.normal(size=2000) * 100, *rng.normal(size=200) * 1e9, 0.0625, -0.1875])
    x = np.r_[x, np.arange(-500, 500) / 16].astype(np.float32)  # ties
    whole = np.round(x.astype(np.float64) * 8).astype(np.int64)
    count = 1 << format.width
    last = whole % count
    expected = np.where(last >= count // 2, last - count, last) if signed else last
    assert np.array_equal(casting.cast(jnp.asarray(x), format), expected / 8)
    traced = jax.jit(casting.cast)(jnp.asarray(x), format)
    assert np.array_equal(traced, expected / 8)
    assert jnp.array_equal(format.decode(format.encode(traced)), traced)
    assert np.isnan(casting.cast(jnp.array([np.nan, np.inf, -np.inf]), format)).all()
    with jax.enable_x64(True):
        once = casting.cast(jnp.asarray(np.float64([4.0625 + 2.0**-40, 1e300])), format)
        assert once.tolist() == [(33 % count - (count if signed and 33 % count > 31 else 0)) / 8, 0]


def test_wrapping_needs_the_full_range():
    with pytest.raises(ValueError, match="narrow=False"):
        Fixed(2, 3, wrap=True)


def test_dyadic_numbers_are_products_and_shifts():
    format = formats.Dyadic(4, 2)
    every = {b / 2.0**c for b in range(16) for c in range(4)}
    assert format.values().tolist() == sorted(every)
    wide = formats.Dyadic(24, 6)
    scale = np.exp(np.random.default_rng(0).normal(size=500) * 4).astype(np.float32)
    codes = np.asarray(wide.encode(casting.cast(jnp.asarray(scale), wide)), np.int64)
    multiplier, shift = codes & ((1 << 24) - 1), codes >> 24
    inside = (scale > 2.0**-40) & (scale < 2.0**24)
    assert (np.abs(multiplier / 2.0**shift - scale) <= scale * 2.0**-24)[inside].all()
    assert (multiplier >= 1 << 23)[inside & (scale < 2.0**23)].all()
    # What the hardware computes: an integer product, half of the last place, a shift.
    sums = np.random.default_rng(1).integers(-(2**30), 2**30, size=500)
    exact = np.floor(sums * multiplier.astype(object) * 2 / [int(2**s) for s in shift] / 2 + 0.5)
    half = np.where(shift > 0, 1 << np.maximum(shift - 1, 0), 0)
    shifted = (sums * multiplier.astype(object) + half) >> shift.astype(object)
    small = np.abs(exact.astype(float)) < 2**50
    assert (shifted == exact)[small].all()


@pytest.mark.parametrize(
    "arguments",
    [
        ([True, False], jnp.nan, jnp.array([1.0, 2.0])),
        ([True, False], 0, jnp.array([1.0, 2.0], jnp.bfloat16)),
        ([True, False], jnp.array([3, 4]), jnp.array([1, 2])),
        ([True, False], 1, 0),
        ([[True], [False]], jnp.ones(3), 2.0),
        (True, 1.0, jnp.float32(2)),
    ],
)
def test_a_selection_is_what_where_gives(arguments):
    condition, *rest = jnp.asarray(arguments[0]), *arguments[1:]
    found, expected = formats.select(condition, *rest), jnp.where(condition, *rest)
    chex.assert_trees_all_equal_shapes_and_dtypes(found, expected)
    np.testing.assert_array_equal(found, expected)


def test_a_selection_makes_no_integer_of_a_fraction():
    with jax.numpy_dtype_promotion("standard"):
        found = formats.select(jnp.asarray([True, False]), jnp.nan, jnp.array([1, 2]))
    np.testing.assert_array_equal(found, [np.nan, 2])
