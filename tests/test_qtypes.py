"""Names of types: the catalogue, TensorCast's grammar, and their round trips."""

import jax
import jax.numpy as jnp
import pytest

import qjax
from qjax import formats, qtypes
from qjax.formats import Float
from qjax.tiling import Tile

LONG = [
    "e2m1fnuz:e8m0_t32",
    "int5:e8m0_t16s4o2",
    "int4:e8m0_t32",
    "uint4:float32_uint4_t16",
    "uint8:bfloat16_float16_t0",
    "e5m2:float32_t64_t64",
    "e3m2fn:multi_float32_e5m2_t16",
    "int8:e5m3",
    "e4m3b8fnuz:float32_t0",
    "e4m3:e8m0_t32",
]


# Every production of TensorCast's grammar: numbers, then scales with tiles, subtiles and offsets.
NUMBERS = [
    *("e5m2", "e3m2", "e4m3fn", "e5m10fnuz", "e4m3b11fnuz", "e5m2b16fnuz", "e3m4inuz", "e2m5b7"),
    *("float32", "float24", "float16", "float12", "bfloat16", "bfloat20", "int3", "int8", "int16"),
    *("float8_e4m3fnuz", "float8_e5m2", "torch.float16", "E4M3FN", "binary8p2", "binary8p7"),
    *("cb41fi_e2m2fnuz", "cb42f1346_e2m3fnuz", "cb41f01_e2m2fnuz_fm", "cb51ie_e2m3fnuz_mx6"),
    *("cb42f3e0123_e4m3fn", "cb31if_e3m2fnuz", "cb41p1p2_e4m3fnuz", "cb42p10246_e5m2b16fnuz"),
    *("cb41ps_e4m3fn", "cb41s2s3_e3m3inuz", "cb21s1s4_e3m3fnuz", "cb61fi_e2m4fnuz"),
    *("cb44_e4m3fn", "cb44_e4m3fn_mycodebook", "cb22_e3m2b5fnuz_own"),
    *("icb44fi_e4m3fn", "icb44fi_e3m2fnuz", "icb42f2_e2m3fnuz", "icb41ps_e4m3fn"),
]
SCALED = [
    *("e8m0", "e5m0_t0", "float16", "bfloat16_t64", "e5m3_t1024", "e8m0_t32_t32", "e4m3fn_t16_t0"),
    *("e8m0_t32s8o1", "e8m0_t32s4o2", "e5m0_t16s2", "e5m3_t32s16", "multi_float32_e4m3fn_t16"),
]


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_of_the_grammar_parses_and_its_name_reads_back(name):
    alone = formats.parse(name)
    assert formats.parse(alone.name) == alone
    for scale in SCALED:
        qtype = qtypes.parse(f"{name}:{scale}")
        assert qtypes.parse(qtype.name) == qtype, qtype.name
        assert hash(qtypes.parse(qtype.name)) == hash(qtype)
        if "s" in scale and "multi" not in scale:
            assert f"{qtype.name}".endswith(scale.partition("_")[2])


@pytest.mark.parametrize(
    "zero", ["float16_float16_t32", "bfloat16_int8_t0", "e5m6_int4", "e5m3_uint4"]
)
def test_every_zero_point_of_the_grammar_parses(zero):
    for name in ("uint4", "uint8", "uint16"):
        assert qtypes.parse(qtypes.parse(f"{name}:{zero}").name) == qtypes.parse(f"{name}:{zero}")


@pytest.mark.parametrize("name", qtypes.TENSORCAST)
def test_tensorcast_s_own_names_are_types(name):
    qtype = qtypes.parse(name)
    assert qtypes.parse(qtype.name) == qtype


def test_subtiles_without_offsets_change_nothing_but_what_a_codebook_chooses():
    x = jax.random.normal(jax.random.key(0), (8, 64))
    for scale in ("e8m0_t32", "float32_t32", "e5m3_t32"):
        whole, cut = (qjax.cast(x, f"e2m1fnuz:{scale}{s}") for s in ("", "s8"))
        assert jnp.array_equal(whole, cut)
    stored = qjax.encode(x, "e2m1fnuz:e8m0_t32s8")
    assert stored.bits_per_element == 4.25
    assert stored.nbytes == 4.25 * 512 / 8


@pytest.mark.parametrize("name", LONG)
def test_long_names_round_trip_and_work(name):
    qtype = qtypes.parse(name)
    assert qtype.name == name
    x = jax.random.normal(jax.random.key(0), (64, 64))
    assert float(jnp.abs(qjax.cast(x, qtype) - x).mean()) < 0.3
    assert jnp.array_equal(qjax.encode(x, qtype).decode(), qjax.cast(x, name))


@pytest.mark.parametrize("name", qtypes.NAMED)
def test_catalogue_names_round_trip(name):
    assert qtypes.parse(qtypes.parse(name).name) == qtypes.parse(name)


def test_the_grammar_reads_what_it_says():
    assert qtypes.parse("e2m1fnuz:e8m0_t32").format == Float(2, 1, family="fnuz", bias=1)
    assert qtypes.parse("e2m1fnuz:e8m0_t32").format.max == 6.0
    assert qtypes.parse("int8:e8m0_t16s2o1") == qtypes.MX9
    assert qtypes.parse("int5:e8m0_t16s2o1") == qtypes.MX6
    assert qtypes.parse("e2m1fn:multi_float32_e4m3fn_t16") == qtypes.NVFP4
    assert qtypes.parse("e4m3fn:float32_t128_t128") == qtypes.DEEPSEEK_128X128
    assert qtypes.parse("int8:float32_t0").tile == Tile(None, 1)
    assert qtypes.parse("int8:float32").tile == Tile()
    assert qtypes.parse("mxfp4e2") == qtypes.MXFP4
    assert qtypes.parse("MXFP8") == qtypes.MXFP8
    assert qtypes.parse("e4m3fn").format == formats.E4M3FN


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("uint4:float32_t32", "zero point"),
        ("int4:float32_uint4_t32", "zero point"),
        ("int4:e8m0_t16s3o1", "do not divide"),
        ("int4:float32_t16s2o1", "power-of-two"),
        ("int4:e8m0_t16o1", "to a subtile"),
        ("int4:e8m0_t16s2o9", "1 to 8"),
        ("int4:e8m0_t16s2o1_t4", "along one"),
        ("uint4:float32_uint4_t16s2", "one power-of-two"),
        ("int4:multi_float32_t16", "two scales"),
        ("int4:e8m0_t16d0", "axis"),
        ("int4:t16", "one scale"),
        ("int4:e8mo_t32", "Near names"),
    ],
)
def test_wrong_long_names_say_what_is_wrong(name, reason):
    with pytest.raises(ValueError, match=reason):
        qtypes.parse(name)
