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
        ("int4:multi_float32_t16", "two scales"),
        ("int4:e8m0_t16d0", "axis"),
        ("int4:t16", "one scale"),
        ("int4:e8mo_t32", "Near names"),
    ],
)
def test_wrong_long_names_say_what_is_wrong(name, reason):
    with pytest.raises(ValueError, match=reason):
        qtypes.parse(name)
