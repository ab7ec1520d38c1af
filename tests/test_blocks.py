"""Block formats against gfloat and microxcaling's documented steps, on tiles made to hurt."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import formats
from qjax.quantizer import Quantizer
from qjax.rounding import NearestAway

RNG = np.random.default_rng(0)
TILES = np.float32(
    [
        *RNG.normal(size=(64, 32)),
        *(RNG.normal(size=(16, 32)) * np.exp(RNG.normal(size=(16, 32)) * 8)),
        np.zeros(32),
        -np.zeros(32),
        np.linspace(-6, 6, 32),
        2.0 ** np.arange(-16, 16),
        np.full(32, np.nextafter(np.float32(2), np.float32(0))),
        np.full(32, 1.75),
        np.r_[1e38, np.full(31, 1e-38)],
        np.full(32, 1e-38),
        RNG.normal(size=32) * 1e38,
        np.arange(32) * 0.25,
    ]
)
TYPES = {
    "mxfp8": (formats.E4M3FN, "format_info_ocp_e4m3", 8),
    "mxfp8_e5m2": (formats.E5M2, "format_info_ocp_e5m2", 15),
    "mxfp6_e3m2": (formats.E3M2FN, "format_info_ocp_e3m2", 4),
    "mxfp6_e2m3": (formats.E2M3FN, "format_info_ocp_e2m3", 2),
    "mxfp4": (formats.E2M1FN, "format_info_ocp_e2m1", 2),
}


def microxcaling(x: np.ndarray, format: formats.Float, emax: int, away: bool) -> np.ndarray:
    """The documented steps of the emulator in float64: floor scale, private exponents, clip.

    `away` is its default rounding of ties ("nearest"); otherwise its mode "even".
    """
    x = x.astype(np.float64)
    amax = np.abs(x).max(axis=-1, keepdims=True)
    shared = np.floor(np.log2(np.where(amax == 0, 2.0**-126, amax))) - emax
    scale = 2.0 ** np.clip(shared, -127, 127)
    units = x / scale
    private = np.floor(np.log2(np.where(units == 0, 1, np.abs(units))))
    ulp = 2.0 ** (np.maximum(private, format.min_exponent) - format.mantissa_bits)
    steps = np.abs(units) / ulp
    whole = np.floor(steps + 0.5) if away else np.round(steps)
    return np.sign(x) * np.minimum(whole * ulp, format.max) * scale


@pytest.mark.parametrize("away", [True, False], ids=["nearest", "even"])
@pytest.mark.parametrize("name", TYPES)
def test_mx_blocks_equal_microxcaling_in_both_of_its_modes(name, away):
    format, _, emax = TYPES[name]
    rounding = NearestAway() if away else qjax.rounding.NEAREST_EVEN
    ours = Quantizer(name, rounding=rounding).cast(jnp.asarray(TILES))
    expected = microxcaling(TILES, format, emax, away).astype(np.float32)
    assert np.array_equal(np.asarray(ours), expected)


@pytest.mark.parametrize("name", TYPES)
def test_mx_elements_equal_gfloat_under_our_scales(name):
    gfloat = pytest.importorskip("gfloat")
    infos = pytest.importorskip("gfloat.formats")
    info = getattr(infos, TYPES[name][1])
    stored = qjax.encode(jnp.asarray(TILES), name)
    exponent = np.asarray(stored.scale.qvalue, np.float64) - 127
    scale = 2.0 ** np.repeat(exponent, 32, axis=-1).reshape(TILES.shape)
    expected = gfloat.round_ndarray(info, TILES.astype(np.float64) / scale, sat=True) * scale
    assert np.array_equal(np.asarray(stored.decode()), expected.astype(np.float32))


@pytest.mark.parametrize("name", TYPES)
def test_casting_a_cast_changes_nothing(name):
    once = qjax.cast(jnp.asarray(TILES), name)
    assert jnp.array_equal(qjax.cast(once, name), once)


def test_blocks_do_not_see_each_other():
    x = jax.random.normal(jax.random.key(0), (1, 128))
    other = x.at[0, :32].mul(1000.0)
    assert jnp.array_equal(qjax.cast(x, "mxfp4")[0, 32:], qjax.cast(other, "mxfp4")[0, 32:])


def adversarial(block: int = 32) -> np.ndarray:
    """Tiles at which block formats go wrong: one unusual thing each."""
    tiny = np.float32(2.0**-149)
    base = RNG.normal(size=block).astype(np.float32)
    tiles = [
        np.zeros(block),
        np.r_[np.nan, base[1:]],
        np.r_[np.inf, base[1:]],
        np.r_[-np.inf, np.zeros(block - 1)],
        tiny * RNG.integers(0, 1 << 20, block),  # the maximum is subnormal
        np.r_[tiny, np.zeros(block - 1)],
        np.r_[2.0**-126, base[1:] * 2.0**-130],
        *(2.0**k * np.r_[1.0, base[1:] / 8] for k in (-127, -100, -63, -1, 0, 63, 127)),
        *(np.nextafter(np.float32(2.0**k), 0) * np.ones(block) for k in (-126, 0, 127)),
        np.r_[3e38, np.full(block - 1, 1e-38)],
        np.r_[1.0, np.full(block - 1, 2.0**-149)],
        # Ties of the elements under scales of one.
        np.r_[448.0, np.arange(1, block) / 16],
        np.r_[6.0, np.arange(1, block) / 4],
    ]
    return np.stack([np.asarray(tile, np.float32) for tile in tiles])


@pytest.mark.parametrize("name", TYPES)
def test_whole_blocks_equal_gfloat_s_own_block_functions(name):
    gfloat = pytest.importorskip("gfloat")
    infos = pytest.importorskip("gfloat.formats")
    info = gfloat.BlockFormatInfo(
        name, getattr(infos, TYPES[name][1]), 32, infos.format_info_ocp_e8m0
    )
    tiles = np.concatenate([TILES, adversarial()])
    finite = np.isfinite(tiles).all(axis=1)
    ours = np.asarray(qjax.cast(jnp.asarray(tiles), name), np.float64)
    with np.errstate(over="ignore"):
        theirs = np.stack(
            [
                gfloat.quantize_block(info, tile.astype(np.float64), gfloat.compute_scale_amax)
                for tile in tiles[finite]
            ]
        )
    assert np.array_equal(ours[finite], theirs)
    # gfloat defines nothing for these: one NaN or infinity makes the scale NaN, and all its tile.
    assert np.isnan(ours[~finite]).all()


@pytest.mark.parametrize("name", ["mxfp8", "mxfp4", "mxint8", "nvfp4", "int8_channel", "bfp8"])
def test_adversarial_tiles_decode_to_what_the_cast_gives_and_stay_in_range(name):
    tiles = adversarial()
    finite = np.isfinite(tiles).all(axis=1)
    rows = jnp.asarray(tiles)[:, None]  # each its own tensor
    cast = np.asarray(jax.vmap(lambda x: qjax.cast(x, name))(rows))[:, 0]
    decoded = np.asarray(jax.vmap(lambda x: qjax.encode(x, name).decode())(rows))[:, 0]
    assert np.array_equal(np.isnan(cast), np.isnan(decoded))
    assert np.array_equal(cast.view(np.int32)[finite], decoded.view(np.int32)[finite])
    # The first block of each bad tile is NaN, and no other.
    block = min(32, qjax.qtypes.parse(name).tile.contract or 32)
    assert np.isnan(cast[~finite, :block]).all()
    assert np.isfinite(cast[~finite, block:]).all()
    assert np.isfinite(cast[finite]).all()
    # Mantissas below one under the largest power of two end at 2**127.
    reach = 2.0**127 * 127 / 128 if name == "bfp8" else np.inf
    wanted = np.clip(tiles[finite].astype(np.float64), -reach, reach)
    largest = np.abs(wanted).max(axis=1, keepdims=True)
    # A float32 scale is at least 2**-126, and a power of two may leave a quarter beyond its top.
    assert (np.abs(cast[finite] - wanted) <= 0.26 * np.maximum(largest, 2.0**-123)).all()
