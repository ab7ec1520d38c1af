"""Quantizers: published vectors, laws over all types, edges of tiles, and errors at the door."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import calibration, formats, qtypes
from qjax.quantizer import Quantizer
from qjax.rounding import Stochastic
from tests.families import QTYPES, label

BLOCK = np.float32(
    [0.1, -0.25, 0.4, 0.55, -0.7, 0.85, 1, -1.15, 1.3, 1.45, -1.6, 1.75, 1.9, -2.05, 2.2, 2.4]
)


def sample(shape=(6, 96), seed=0) -> jax.Array:
    """Normal numbers whose rows differ by orders of magnitude."""
    a, b = jax.random.split(jax.random.key(seed))
    return jax.random.normal(a, shape) * jnp.exp(4 * jax.random.normal(b, (shape[0], 1)))


def test_mx_blocks_follow_the_ocp_vectors():
    stored = qjax.encode(jnp.asarray(BLOCK), "mxfp8")
    assert stored.scale.qvalue.tolist() == [120]
    codes = formats.E4M3FN.load(stored.qvalue)
    expected = [13, -32, 52, 72, -88, 112, 128, -144, 160, 192, -208, 224, 240, -256, 288, 320]
    assert codes.tolist() == expected
    stored = qjax.encode(jnp.asarray(BLOCK), "mxfp4")
    assert stored.scale.qvalue.tolist() == [126]
    codes = formats.E2M1FN.load(stored.qvalue)
    assert codes.tolist() == [0, -0.5, 1, 1, -1.5, 1.5, 2, -2, 3, 3, -3, 4, 4, -4, 4, 4]


@pytest.mark.parametrize(
    ("bits", "ulp", "expected"),
    [
        (4, 1 / 4, [0, -1, 2, 3, -5, 4, 0, 4]),
        (6, 1 / 16, [0, -3, 7, 12, -21, 14, 0, 16]),
        (8, 1 / 64, [2, -13, 26, 49, -83, 58, 0, 65]),
    ],
)
def test_block_float_follows_the_hbfp_vectors(bits, ulp, expected):
    x = jnp.float32(np.array([0.03, -0.2, 0.41, 0.77, -1.3, 0.9, 0, 1.02]))
    assert (qjax.cast(x, f"bfp{bits}") / ulp).tolist() == expected
    assert qjax.encode(x, f"bfp{bits}").qvalue.tolist() == expected


def test_block_float_saturates_at_an_exact_power_of_two():
    assert qjax.cast(jnp.array([1.0, 0.5]), "bfp4").tolist() == [0.875, 0.5]


@pytest.mark.parametrize("name", ["int8_channel", "uint8_channel", "mxfp8", "e4m3fn_tensor"])
def test_the_derivative_is_zero_whichever_way_a_cast_is_computed(name):
    assert not np.any(jax.grad(lambda x: jnp.sum(Quantizer(name).cast(x)))(sample()))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("qtype", QTYPES, ids=label)
def test_cast_is_decode_of_encode_eager_jitted_and_traced(qtype, axis):
    x = sample()
    quantizer = Quantizer(qtype)
    cast = quantizer.cast(x, contract=(axis,))
    assert jnp.array_equal(cast, quantizer.encode(x, contract=(axis,)).decode())
    jitted = jax.jit(lambda x: quantizer.cast(x, contract=(axis,)))
    assert jnp.array_equal(cast, jitted(x))
    traced = jax.jit(lambda q, x: q.cast(x, contract=(axis,)))
    assert jnp.array_equal(cast, traced(quantizer, x))
    assert qjax.cast(x, qtype, axis=axis).tobytes() == cast.tobytes()


@pytest.mark.parametrize("qtype", QTYPES, ids=label)
def test_axis_zero_is_the_transpose_of_axis_one(qtype):
    x = sample((64, 64))
    assert jnp.array_equal(qjax.cast(x, qtype, axis=0), qjax.cast(x.T, qtype, axis=1).T)


@pytest.mark.parametrize("qtype", QTYPES, ids=label)
def test_a_short_last_tile_counts_as_padded_with_zeros(qtype):
    x = sample((3, 50))
    padded = jnp.pad(x, ((0, 0), (0, 78)))
    assert jnp.array_equal(qjax.cast(x, qtype), qjax.cast(padded, qtype)[:, :50])


@pytest.mark.parametrize("qtype", QTYPES, ids=label)
def test_zeros_stay_zeros_and_their_sign(qtype):
    x = jnp.array([0.0, -0.0] * 40)
    result = qjax.cast(x, qtype)
    assert jnp.array_equal(result, x)
    assert not np.isnan(qjax.encode(x, qtype).decode()).any()
    if not isinstance(qtype.format, formats.Codebook) and qtype.format.grid.negative_zero:
        kept = Quantizer(qtype).kept(x)
        kept = np.ones(80, bool) if kept is None else np.asarray(kept)
        assert np.array_equal(np.signbit(result), np.signbit(x) & kept)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("qtype", QTYPES, ids=label)
def test_one_bad_element_makes_its_whole_tile_nan_and_no_other(qtype, bad):
    x = np.ones((4, 128), np.float32)
    x[2, 5] = bad
    result = np.asarray(qjax.cast(jnp.asarray(x), qtype))
    decoded = np.asarray(qjax.encode(jnp.asarray(x), qtype).decode())
    reach = qtype.tile.contract or 128
    assert np.isnan(result[2, :reach]).all()
    if qtype.tile.keep == 1 and qtype.scale.scale is None:
        assert np.isfinite(np.delete(result, 2, axis=0)).all()
        assert np.isfinite(result[2, reach:]).all()
    if qtype.zero is None:
        assert np.array_equal(np.isnan(decoded), np.isnan(result))


@pytest.mark.parametrize("factor", [2.0**-126, 1e-38, 1e-20, 1.0, 1e20, 1e38])
def test_mx_casts_commute_with_powers_of_two_and_survive_extremes(factor):
    x = (np.asarray(sample((2, 64), 3)) / 1000).astype(np.float64)
    x /= np.abs(x).max()
    scaled = jnp.asarray((x * factor).astype(np.float32))
    for qtype in (qtypes.MXFP8, qtypes.MXFP4, qtypes.MXINT8):
        result = np.asarray(qjax.cast(scaled, qtype), np.float64)
        assert np.array_equal(result, np.asarray(qjax.encode(scaled, qtype).decode(), np.float64))
        assert np.abs(result - x * factor).max() <= 0.26 * factor


def test_float32_subnormals_survive_mx():
    x = jnp.asarray(np.int32([1 << 20, 3 << 18, 5 << 15, 0] * 8).view(np.float32))
    result = np.asarray(qjax.cast(x, "mxfp8"))
    # The scale is 2**-127, the spacing 2**-136: multiples of 2**13 in units of 2**-149.
    assert result.view(np.int32).tolist() == x.view(jnp.int32).tolist()
    assert (
        np.asarray(qjax.encode(x, "mxfp8").decode()).view(np.int32).tolist()
        == result.view(np.int32).tolist()
    )


def test_int8_channels_scale_their_maximum_to_127():
    x = sample()
    stored = qjax.encode(x, "int8_channel")
    assert stored.qvalue.dtype == jnp.int8
    assert np.abs(np.asarray(stored.qvalue, np.int32)).max(axis=1).tolist() == [127] * 6
    amax = np.abs(np.asarray(x)).max(axis=1, keepdims=True)
    assert np.allclose(stored.scale.decode(), amax / 127, rtol=3e-7)
    # Integers have one zero, cast or stored; a row with a NaN is NaN.
    small = -jnp.abs(x).at[:, 0].set(1e6)
    assert not np.signbit(qjax.cast(small, "int8_channel")[:, 1:]).any()
    broken = x.at[0, 3].set(jnp.nan).at[1, 3].set(-jnp.inf)
    for found in (qjax.cast(broken, "int8_channel"), qjax.encode(broken, "int8_channel").decode()):
        assert np.isnan(found).all(axis=1).tolist() == [True, True] + [False] * 4
        assert not np.isnan(found[2:]).any()


@pytest.mark.parametrize("qtype", [qtypes.MXFP8, qtypes.MXFP4, qtypes.INT8_CHANNEL], ids=label)
def test_stochastic_rounding_is_unbiased_within_a_tile(qtype):
    x = jnp.tile(sample((1, 64)), (20000, 1))
    scale = "rceil" if qtype.scale == qtypes.E8M0 else None
    quantizer = Quantizer(qtype, rounding=Stochastic(), scale=scale)
    assert quantizer.stochastic
    result = np.asarray(quantizer.cast(x, key=jax.random.key(5)), np.float64)
    sigma = result.std(axis=0) / np.sqrt(len(result)) + 1e-7 * np.abs(np.asarray(x[0]))
    assert (np.abs(result.mean(axis=0) - np.asarray(x[0], np.float64)) < 5 * sigma).all()


def test_noise_under_scales_that_cut_off_is_biased_and_said_to_be():
    x = jnp.tile(jnp.linspace(-1.9, 1.9, 32), (4000, 1))

    def off(**options):
        quantizer = Quantizer("mxfp4", rounding=Stochastic(), **options)
        mean = quantizer.cast(x, key=jax.random.key(0)).mean(axis=0)
        return float(jnp.abs(mean - x[0]).max())

    assert off(scale="floor") > 0.35  # 1.9 becomes 1.5
    assert off(scale="rceil") < 0.05
    with pytest.warns(UserWarning, match=r"mxfp4 rounds.*cuts off.*scale='rceil'.*scale='floor'"):
        quantizer = Quantizer("mxfp4", rounding=Stochastic())
    assert quantizer == Quantizer("mxfp4", rounding=Stochastic(), scale="floor")
    # Asked for by name, a type is what its definition says, and neither floats nor the rules of
    # block floating point leave anything open; pytest makes an error of every warning.
    assert qjax.cast(x, "mxfp4", rounding=Stochastic(), key=jax.random.key(0)).max() == 1.5
    for name in ("int8_channel", "nvfp4", "bfp8", "int4"):
        Quantizer(name, rounding=Stochastic())
    jax.tree.map(lambda bits: bits, quantizer)


def test_noise_depends_on_the_index_in_the_array_only():
    x = jnp.full((4, 70), 0.3)
    quantizer = Quantizer("mxfp4", rounding=Stochastic(), scale="rceil")
    key = jax.random.key(0)
    a = quantizer.cast(x, key=key)
    assert jnp.array_equal(a, quantizer.encode(x, key=key).decode())
    assert jnp.array_equal(a, jax.jit(lambda x, k: quantizer.cast(x, key=k))(x, key))
    assert not jnp.array_equal(a, quantizer.cast(x, key=jax.random.key(1)))


def test_a_stack_of_quantizers_runs_under_vmap():
    quantizers = [Quantizer(qtypes.MXFP6_E3M2), Quantizer(qtypes.MXFP6_E2M3), Quantizer("mxfp4")]
    stack = jax.tree.map(lambda *bits: jnp.array(bits), *quantizers)
    x = sample()
    rows = jax.vmap(lambda q: q.cast(x))(stack)
    for row, quantizer in zip(rows, quantizers):
        assert jnp.array_equal(row, quantizer.cast(x))


def test_dtype_is_the_last_conversion():
    x = sample().astype(jnp.bfloat16)
    assert qjax.cast(x, "mxfp8").dtype == jnp.bfloat16
    wide = Quantizer("mxfp8").cast(x, dtype=jnp.float32)
    assert jnp.array_equal(wide, Quantizer("mxfp8").cast(x.astype(jnp.float32)))


def test_mistakes_at_the_door_say_what_to_do():
    x = sample()
    with pytest.raises(ValueError, match="mxfp8"):
        qjax.cast(x, "mxpf8")
    with pytest.raises(TypeError, match="int32"):
        qjax.cast(jnp.arange(4), "mxfp8")
    with pytest.raises(ValueError, match="axis 2"):
        qjax.cast(x, "mxfp8", axis=2)
    with pytest.raises(ValueError, match="key"):
        qjax.cast(x, "mxfp8", rounding=Stochastic())
    with pytest.raises(TypeError, match="QType, a Format or a name"):
        qjax.cast(x, 8)
    with pytest.raises(ValueError, match="floor"):
        Quantizer("mxfp8", scale="flor")
    with pytest.raises(ValueError, match="2 to 24"):
        qjax.cast(x, "bfp1")
    for bound in (calibration.Fixed(3.0), calibration.Delayed(length=4), calibration.Search()):
        with pytest.raises(ValueError, match=r"int4.*neither a scale nor a zero.*int4:float32"):
            Quantizer("int4", calibration=bound)
    assert Quantizer("int4", calibration=calibration.AbsMax()) == Quantizer("int4")


@pytest.mark.parametrize("qtype", QTYPES, ids=label)
def test_names_and_reprs_of_types_round_trip(qtype):
    names = {"Tile": qjax.Tile, **vars(formats), **vars(qtypes)}
    assert qtypes.parse(qtype.name) == qtype
    assert eval(repr(qtype), names) == qtype


@pytest.mark.parametrize(
    ("name", "bits"),
    [("mxfp8", 8.25), ("mxfp4", 4.25), ("nvfp4", 4.5), ("bfp4", 4.125), ("int8_tensor", 8.0)],
)
def test_bits_per_element_count_the_scales(name, bits):
    assert qtypes.parse(name).bits_per_element == bits


def test_lists_and_numbers_are_arrays_and_a_name_is_no_rounding():
    np.testing.assert_array_equal(qjax.cast([1.1, -3.1], "e4m3fn"), [1.125, -3.0])
    assert qjax.cast(1.06, "e4m3fn").shape == ()
    with pytest.raises(TypeError, match=r"`rounding` must be a Rounding.*'stochastic'.*Nearest"):
        qjax.cast(jnp.ones(4), "mxfp4", rounding="stochastic")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"`calibration` must be a Calibration.*'absmax'"):
        qjax.Quantizer("mxfp4", calibration="absmax")  # type: ignore[arg-type]


@pytest.mark.parametrize("inner", ["e4m3fn", "uint4"])
def test_scales_of_scales_of_scales_decode_to_what_the_cast_gives(inner):
    whole = qtypes.QType("e4m3fn", qjax.Tile(), "float32")
    qtype = qtypes.QType("int4", qjax.Tile(16, 1), qtypes.QType(inner, qjax.Tile(4, 1), whole))
    assert qtype.bits_per_element == 4 + (qtypes.QType(inner).bits_per_element + 8 / 4) / 16
    x = sample((8, 256))
    cast = qjax.cast(x, qtype)
    assert jnp.array_equal(qjax.encode(x, qtype).decode(), cast)
    assert float(jnp.abs(cast[0] - x[0]).max()) < 0.2 * float(jnp.abs(x[0]).max())


def test_a_type_takes_the_names_of_its_formats():
    named = qjax.QType("e2m1fn", qjax.Tile(32, 1), "e8m0fnu")  # type: ignore[arg-type]
    assert named == qjax.qtypes.MXFP4


@pytest.mark.parametrize("name", ["int8_channel", "mxfp8", "mxfp4", "nvfp4", "e4m3fn_tensor"])
def test_units_are_the_values_and_scales_that_encode_stores(name):
    x = jax.random.normal(jax.random.key(0), (6, 64)).at[0].set(0).at[1].multiply(1e-39)
    quantizer = qjax.Quantizer(name)
    values, scale = quantizer.units(x)
    tensor = quantizer.encode(x)
    np.testing.assert_array_equal(scale, tensor.scale.decode(jnp.float32))
    np.testing.assert_array_equal(values, tensor.qtype.format.load(tensor.qvalue))
    broken = quantizer.units(x.at[1, 3].set(jnp.nan))[1]
    assert jnp.isnan(broken).any()
    assert (
        jnp.isnan(broken).sum()
        == jnp.isnan(quantizer.encode(x.at[1, 3].set(jnp.nan)).scale.decode()).sum()
    )


def test_roots_of_unity_take_complex_numbers_through_the_doors():
    x = jnp.array([[1 + 2j, -3, 0.1 - 1j]], jnp.complex64)
    expected = [[1j, -1, -1j]]
    assert np.array_equal(qjax.cast(x, "roots4"), expected)
    assert np.array_equal(qjax.encode(x, "roots4").T.decode(), np.transpose(expected))
    with pytest.raises(TypeError, match=r"complex numbers.*float32"):
        qjax.cast(jnp.ones(3), "roots4")


def test_fixed_point_given_as_data_needs_the_rule_of_its_scale():
    x = sample((4, 64))
    with pytest.raises(ValueError, match=r"traced.*scale='bfp'"):
        jax.jit(lambda x, qtype: qjax.cast(x, qtype))(x, qtypes.MXINT8)
    ruled = Quantizer("mxint8", scale="floor")
    cast = jax.jit(lambda x, quantizer: quantizer.cast(x))
    assert jnp.array_equal(cast(x, ruled), qjax.cast(x, "mxint8"))
