"""Formats whose tiles choose among tables: BitMoD and TensorCast's implicit codebooks."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import casting, formats, qtensor, qtypes
from qjax.formats import Choice, Codebook
from qjax.quantizer import Quantizer

NAMES = [
    "bitmod4_block128",
    "cb42f1346_e2m3fnuz:e8m0_t32",
    "cb41fi_e2m2fnuz:float32_t64",
    "cb41fi_e2m2fnuz:e8m0_t32s16",
]


def magnitudes(name: str) -> list[list[float]]:
    return [[v for v in table.table if v > 0] for table in formats.parse(name).tables]


def test_bitmod_has_its_four_tables_in_order():
    three = [set(table.table) for table in formats.bitmod(3).tables]
    base = {0.0, 1.0, -1.0, 2.0, -2.0, 4.0, -4.0}
    assert three == [base | {3.0}, base | {-3.0}, base | {6.0}, base | {-6.0}]
    four = {0.0, *(s * v for s in (1, -1) for v in (0.5, 1, 1.5, 2, 3, 4, 6))}
    assert [set(t.table) - four for t in formats.bitmod(4).tables] == [{5.0}, {-5.0}, {8.0}, {-8.0}]
    assert [t.width for t in formats.bitmod(4).tables] == [4] * 4
    assert qtypes.BITMOD3.bits_per_element == pytest.approx(3 + 10 / 128)
    with pytest.raises(ValueError, match="3 or 4"):
        formats.bitmod(5)


@pytest.mark.parametrize(("bits", "error"), [(3, 0.03803), (4, 0.00959)])
def test_bitmod_has_the_known_error_on_gaussians_and_beats_each_of_its_tables(bits, error):
    x = jax.random.normal(jax.random.key(0), (256, 1024))
    choice = formats.bitmod(bits)
    tile = qjax.Tile(128, 1)

    def errors(format):
        cast = qjax.cast(x, qtypes.QType(format, tile, "float32"))
        return jnp.sum(((cast - x) ** 2).reshape(256, 8, 128), axis=-1)

    best = errors(choice)
    single = jnp.stack([errors(table) for table in choice.tables])
    assert jnp.allclose(best, single.min(axis=0), rtol=1e-5)
    assert float(best.mean() / 128) == pytest.approx(error, rel=0.03)
    named = qjax.cast(x, f"bitmod{bits}_block128")
    assert float(((named - x) ** 2).mean()) == pytest.approx(error, rel=0.04)


def test_codebooks_follow_the_documented_examples():
    fp4 = [0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    # The pattern of fp4 ends at place 60 of 63 on e2m3's line: three below the top.
    moved = magnitudes("cb42f1346_e2m3fnuz")
    assert moved[1] == fp4
    line = [v for v in formats.Float(2, 3, family="fnuz", bias=1).values() if v > 0]
    for down, table in zip((1, 3, 4, 6), moved):
        places = [line.index(v) for v in table]
        assert places == [p + 3 - down for p in (line.index(v) for v in fp4)]
    assert magnitudes("cb41fi_e2m2fnuz") == [fp4, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]]
    shared = magnitudes("cb51ie_e2m3fnuz_mx6")
    assert shared[0] == [2 * v for v in shared[1]] == [v / 2 for v in range(1, 16)]
    both = magnitudes("cb41f01_e2m2fnuz")
    assert sorted({v for table in both for v in table}) == sorted({*both[0], *both[1]})
    assert len(both[0]) == len(both[1]) == 7
    grown = [line.index(v) for v in magnitudes("cb41p1s2_e2m3fnuz")[0]]
    assert np.diff(grown).tolist() == [6, 5, 4, 3, 2, 1]
    even = [line.index(v) for v in magnitudes("cb41p1s2_e2m3fnuz")[1]]
    assert np.diff(even).tolist() == [2] * 6
    assert max(grown) == max(even) == len(line) - 1


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cb42f13_e2m3fnuz", "2 tables for a choice of 2"),
        ("cb41x1_e2m3fnuz", "not made of clauses"),
        ("cb41fi_e2m0fnuz", "number line"),
        ("cb11f_e4m3fn", "2 to 8 bits"),
        ("cb71fi_e4m3fn", "3 to 6 bits"),
        ("cb41s1e_e2m3fnuz", "other than f or i"),
        ("icb54fi_e4m3fn", "another width than 4"),
        ("icb44fip_e4m3fn", "12 tables"),
        ("cb41p9s9_e2m3fnuz", "leaves the number line"),
    ],
)
def test_wrong_codebooks_say_what_is_wrong(name, reason):
    with pytest.raises(ValueError, match=reason):
        formats.parse(name)


def test_patterns_of_three_bits_and_growing_distances_follow_the_text():
    assert magnitudes("cb31if_e3m2fnuz") == [[8.0, 16.0, 24.0], [4.0, 8.0, 16.0]]
    line = [v for v in formats.parse("e5m2").values() if v > 0]
    grown = [line.index(v) for v in magnitudes("cb41p3p_e5m2")[0]]
    assert np.diff(grown).tolist() == [8, 7, 6, 5, 4, 3]
    assert magnitudes("cb41p3p_e5m2")[1] == magnitudes("cb41p10s_e5m2")[0]


def test_the_earlier_form_moves_each_pattern_down_place_by_place():
    tables = magnitudes("icb44fi_e2m3fnuz")
    line = [v for v in formats.Float(2, 3, family="fnuz", bias=1).values() if v > 0]
    places = [[line.index(v) for v in table] for table in tables]
    assert len(tables) == 16
    for first, pattern in ((0, [0.5, 1, 1.5, 2, 3, 4, 6]), (8, [1, 2, 3, 4, 5, 6, 7])):
        start = [line.index(v) for v in pattern]
        for i, table in enumerate(places[first : first + 8]):
            moved = [p + len(line) - 1 - start[-1] - i for p in start]
            assert table == [p for p in moved if p >= 0]
    assert magnitudes("icb42f2_e2m3fnuz")[0] == magnitudes("cb42f2345_e2m3fnuz")[0]


def test_a_generic_codebook_is_a_type_but_needs_its_tables():
    blank = formats.parse("cb42_e4m3fn_mine")
    qtype = qtypes.parse("cb42_e4m3fn_mine:e8m0_t32")
    assert qtype.format == blank
    assert qtype.bits_per_element == 4 + (8 + 2) / 32
    with pytest.raises(TypeError, match="Fill it first"):
        qjax.cast(jnp.ones(32), qtype)
    tables = [[-1.0, 0.0, 0.5 * k] for k in range(1, 5)]
    filled = blank.fill(tables)
    assert filled.name == blank.name
    assert [list(table.table) for table in filled.tables] == tables
    assert filled.width <= blank.width
    cast = qjax.cast(jnp.array([-3.0, 6.0, 0.1]), qtypes.QType(filled, qtype.tile, qtype.scale))
    assert cast.tolist() == [-2.0, 4.0, 0.0]  # all tables reach two, the last alone
    for wrong, reason in (
        (tables[:3], "3 tables"),
        ([*tables[:3], [0.0, 1.03125]], "1.03125 is not one of e4m3fn"),
        ([*tables[:3], list(range(17))], "17 values"),
    ):
        with pytest.raises(ValueError, match=reason):
            blank.fill(wrong)


def test_a_codebook_chooses_per_subtile_under_the_scale_of_the_tile():
    x = np.asarray(jax.random.normal(jax.random.key(3), (16, 32)))
    name = "cb41fi_e2m2fnuz:e8m0_t32s8"
    qtype = qtypes.parse(name)
    assert qtype.bits_per_element == 4 + 1 / 8 + 8 / 32
    stored = qjax.encode(jnp.asarray(x), name)
    assert stored.nbytes == qtype.bits_per_element * 512 / 8
    exponent = np.floor(np.log2(np.abs(x).max(axis=1, keepdims=True))) - 2
    tried = [
        np.asarray(casting.cast(jnp.asarray(x / 2**exponent), table)) * 2**exponent
        for table in qtype.format.tables
    ]
    errors = [((each - x) ** 2).reshape(16, 4, 8).sum(axis=-1) for each in tried]
    cast = np.asarray(qjax.cast(jnp.asarray(x), name))
    assert np.allclose(((cast - x) ** 2).reshape(16, 4, 8).sum(axis=-1), np.minimum(*errors))
    assert jnp.array_equal(stored.decode(), cast)
    # With offsets, the scale of a subtile follows its own largest element too.
    moved = qjax.cast(jnp.asarray(x), name + "o2")
    assert ((moved - x) ** 2).sum() < ((cast - x) ** 2).sum()


@pytest.mark.parametrize("name", NAMES)
def test_every_tile_takes_its_best_table_and_round_trips(name, tmp_path):
    pytest.importorskip("safetensors")
    qtype = qtypes.parse(name)
    assert qtypes.parse(qtype.name) == qtype
    x = jax.random.normal(jax.random.key(1), (8, 256)) * jnp.exp(jnp.arange(8.0))[:, None]
    stored, cast = qjax.encode(x, name), qjax.cast(x, name)
    assert jnp.array_equal(stored.decode(), cast)
    index, choice = qtype.format.part(stored.qvalue)
    reach = qtype.tile.contract
    tiles = choice.reshape(-1, reach)
    assert (tiles == tiles[:, :1]).all()
    assert len(np.unique(np.asarray(tiles))) > 1
    assert int(index.max()) < 1 << qtype.format.width
    exact = x.size * 4 / 8 + x.size // reach * qtype.format.tile_bits / 8 + stored.scale.nbytes
    assert stored.nbytes == exact
    assert jnp.array_equal(jax.jit(lambda x: qjax.cast(x, name))(x), cast)
    path = tmp_path / "x.safetensors"
    stack = jax.vmap(lambda x: qjax.encode(x, name))(x.reshape(2, 4, 256))
    qtensor.save(path, {"w": stored, "stack": stack})
    back = qtensor.load(path)
    assert back["w"].qtype == qtype
    assert jnp.array_equal(back["w"].decode(), cast)
    assert jnp.array_equal(back["stack"].qvalue, stack.qvalue)
    assert jnp.array_equal(stored.T.decode(), cast.T)


def test_tables_that_share_a_scale_are_chosen_by_brute_force():
    qtype = qtypes.parse("cb42f1346_e2m3fnuz:e8m0_t32")
    x = np.asarray(jax.random.normal(jax.random.key(2), (16, 32)))
    cast = np.asarray(qjax.cast(jnp.asarray(x), qtype))
    exponent = np.floor(np.log2(np.abs(x).max(axis=1, keepdims=True))) - 2
    best = np.full(16, np.inf)
    for table in qtype.format.tables:
        values = np.asarray(casting.cast(jnp.asarray(x / 2**exponent), table)) * 2**exponent
        best = np.minimum(best, ((values - x) ** 2).sum(axis=1))
    assert np.allclose(((cast - x) ** 2).sum(axis=1), best, rtol=1e-5)


def test_zeros_and_bad_tiles():
    x = jnp.zeros((3, 128)).at[1, 3].set(jnp.nan).at[2].set(1.0)
    for name in ("bitmod3_block128", "cb41fi_e2m2fnuz:e8m0_t128"):
        result = np.asarray(qjax.cast(x, name))
        assert (result[0] == 0).all()
        assert np.isnan(result[1]).all()
        assert np.isfinite(result[2]).all()


def test_choices_without_tiles_are_refused():
    choice = Choice((Codebook((-1.0, 0.0, 1.0)), Codebook((-1.0, 0.0, 0.5))))
    with pytest.raises(TypeError, match="tiles and scales"):
        qjax.cast(jnp.ones(3), choice)
    with pytest.raises(TypeError, match="chooses one per tile"):
        choice.encode(jnp.ones(3))
    with pytest.raises(ValueError, match="at least two"):
        Choice((Codebook((-1.0, 1.0)),))
    pairs = itertools.product(choice.tables, choice.tables)
    assert len(list(pairs)) == 4
    assert Quantizer(qtypes.BITMOD4).qtype.format.values().tolist()[0] == -8.0
