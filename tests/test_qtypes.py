"""Names of types: the catalogue, TensorCast's grammar, and their round trips."""

import itertools
import re

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
# All that a tile may say, tTsSoOnNmMdD, and the scales of every kind.
EXTENTS = ["t0", *(f"t{1 << n}" for n in range(1, 11))]
TILES = [
    f"{extent}{subtile}{offset}{sparsity}{axis}"
    for extent in EXTENTS
    for subtile in ("", "s2", "s8")
    for offset in ("", "o1", "o2")
    for sparsity in ("", "n1m2", "n2m4", "n3m8")
    for axis in ("", "d0", "d2", "d-1")
]
SCALES = ["e8m0", "e5m0", "float16", "bfloat16", "float32", "e5m3", "e4m3fn"]


def fits(tile: str) -> bool:
    """Whether the parts of a tile go together, read by hand."""
    found = re.fullmatch(r"t(\d+)(?:s(\d))?(?:o(\d))?(?:n\dm(\d))?(d.*)?", tile)
    extent, subtile, offset, group = (part and int(part) for part in found.groups()[:4])
    if (offset and not subtile) or (subtile and (not extent or extent % subtile)):
        return False
    return not (group and (subtile or extent) % group)


def test_every_tile_of_the_grammar_parses_or_says_what_does_not_fit():
    count = 0
    for n, tile in enumerate(TILES):
        scale = SCALES[n % 2 if "o" in tile else n % 7]
        name = f"{('e2m1fnuz', 'int7', 'float12')[n % 3]}:{scale}_{tile}"
        if not fits(tile):
            with pytest.raises(ValueError, match=r"subtile|of every"):
                qtypes.parse(name)
            continue
        count += 1
        qtype = qtypes.parse(name)
        assert qtypes.parse(qtype.name) == qtype
        assert qtype.name.partition(":")[2] == name.partition(":")[2]
        assert eval(repr(qtype), {**vars(formats), **vars(qtypes), "Tile": Tile}) == qtype
    assert count > 700


def test_two_tiles_of_the_grammar_parse():
    count = 0
    for first, second in itertools.product([*TILES[::17], "t16s8o1", "t8n2m4"], repeat=2):
        name = f"int4:e8m0_{first}_{second}"
        if (second.startswith("t1n") or not (fits(first) and fits(second))
                or ("n" in first and "n" in second)
                or len(set(re.findall(r"o\d", first + second))) > 1):  # fmt: skip
            continue
        count += 1
        qtype = qtypes.parse(name)
        assert qtypes.parse(qtype.name) == qtype
        if "s" not in name:
            assert qtype.name == name or "t0_t0" in name
    assert count > 500


def test_every_kind_of_scale_of_the_grammar_makes_casts():
    """Tensor, channel, tile, two dimensions, subtiles and a scale above, with and without zero."""
    x = jax.random.normal(jax.random.key(0), (32, 32))
    for name in (
        *("int4:e8m0", "e2m1fnuz:bfloat16_t0", "int4:e5m3_t16_t8", "int4:e8m0_t16s8_t16s4o1"),
        *("cb41fi_e2m2fnuz:e8m0_t16s4_t4", "int4:multi_float32_e4m3fn_t8d0"),
        *("e2m1fnuz:float8_e4m3fn_t32n2m4", "int4:torch.float16_t0_t8n1m2"),
        *("cb41fi_e2m2fnuz:multi_bfloat16_e4m3fn_t16s8n2m4d0", "uint4:float16_int4_t16n2m4"),
        *("uint4:multi_float32_e4m3fn_uint4_t16", "uint4:bfloat16_bfloat16"),
    ):
        cast = qjax.cast(x, name)
        assert jnp.array_equal(qjax.encode(x, name).decode(), cast), name
        kept = qtypes.parse(name).sparsity
        assert float(jnp.abs(cast - x).mean()) < (0.3 if kept is None else 0.6), name
    plain = qtypes.parse("uint4:float32_e4m3fn_uint4_t16")
    assert plain == qtypes.parse("uint4:multi_float32_e4m3fn_uint4_t16")


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
        ("int4:e8m0_t16s2o1_t4s2o2", "once is enough"),
        ("int4:e8m0_t16n2m4_t16n2m4", "once is enough"),
        ("int4:e8m0_t0s4", "do not divide"),
        ("int4:e8m0_t8s2o1n1m4", "subtiles.* of 2"),
        ("int4:e8m0_t18n2m4", "groups? that divides"),
        ("int4:e8m0_t16n4m4", "keep 4 of every 4"),
        ("int4:e8m0_t16n0m4", "keep 0 of every 4"),
        ("uint4:float32_float16_t16n2m4", "integer zero point"),
        ("binary:float32_t16n2m4", "has no zero"),
        ("uint4:e8m0_int4_t16", "float scale"),
        ("uint4:multi_float32_uint4_t16", "two scales"),
        ("uint4:float32_e4m3fn_float16_uint4_t16", "one scale"),
        ("uint4:float32_uint4_t16s2", "one power-of-two"),
        ("int4:multi_float32_t16", "two scales"),
        ("int4:t16", "one scale"),
        ("int4:e8mo_t32", "Near names"),
    ],
)
def test_wrong_long_names_say_what_is_wrong(name, reason):
    with pytest.raises(ValueError, match=reason):
        qtypes.parse(name)
