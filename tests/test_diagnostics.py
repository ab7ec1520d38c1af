"""Diagnostics against their definitions in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import diagnostics


def test_sqnr_is_six_decibels_a_bit():
    x = jax.random.uniform(jax.random.key(0), (1, 100000), minval=-1, maxval=1)
    types = ("int4_channel", "int8_channel")
    ratios = [float(diagnostics.sqnr(x, qjax.cast(x, name))) for name in types]
    assert ratios[1] - ratios[0] == pytest.approx(20 * np.log10(127 / 7), abs=0.3)
    assert diagnostics.sqnr(x, x) == np.inf
    tiny = x * 1e-30
    assert float(diagnostics.sqnr(tiny, qjax.cast(tiny, "mxfp8"))) > 25


def test_fractions_count_what_they_say():
    x = jnp.array([448.0, 500.0, -1000.0, 1e-9, 0.0, -0.0, 1.0, 2.0])
    stored = qjax.encode(x, "e4m3fn")
    summary = jax.jit(diagnostics.summarize)(x, stored)
    assert float(summary.saturated) == 2 / 8
    assert float(summary.underflowed) == 1 / 8
    assert float(summary.zeros) == 3 / 8


def test_lost_subnormals_count_as_underflow():
    x = jnp.asarray(np.int32([1, 5, 0]).view(np.float32))
    assert float(diagnostics.underflowed(x, jnp.zeros(3))) == pytest.approx(2 / 3)


def test_histograms_count_codes_and_exponents():
    x = jnp.concatenate([jnp.full(32, 1.0), jnp.full(32, 8.0), jnp.full(32, 9.0)])
    stored = qjax.encode(x, "mxfp8")
    counts = np.asarray(diagnostics.scale_histogram(stored))
    assert counts[127 - 8] == 1
    assert counts[127 - 5] == 2
    assert counts.sum() == 3
    codes = np.asarray(diagnostics.code_histogram(qjax.encode(jnp.array([-7.0, 0, 0, 7]), "int4")))
    assert codes[[1, 8, 15]].tolist() == [1, 2, 1]
    assert codes.sum() == 4
    with pytest.raises(ValueError, match="no scale"):
        diagnostics.scale_histogram(qjax.encode(x, "e4m3fn"))


def test_formats_whose_tiles_choose_count_indices_and_saturate_at_their_own_table():
    x = jax.random.normal(jax.random.key(0), (4, 256))
    stored = qjax.encode(x, "bitmod4_block128")
    index, _ = stored.qtype.format.part(stored.qvalue)
    counts = np.asarray(diagnostics.code_histogram(stored))
    assert counts.tolist() == np.bincount(np.asarray(index).ravel(), minlength=16).tolist()
    assert counts.sum() == x.size
    # A bound of half the largest magnitude cuts off what lies beyond it, whichever the table.
    quantizer = qjax.Quantizer("bitmod4:float32_t128", calibration=qjax.calibration.Fixed(1.0))
    summary = jax.jit(diagnostics.summarize)(x, quantizer.encode(x))
    tiles = x.reshape(-1, 128)
    tables = quantizer.qtype.format.tables
    chosen = quantizer.qtype.format.part(quantizer.encode(x).qvalue)[1].reshape(-1, 128)[:, 0]
    ends = np.array([[table.table[0], table.table[-1]] for table in tables])[np.asarray(chosen)]
    units = np.asarray(tiles) * np.abs(ends).max(axis=1, keepdims=True)
    beyond = np.where(units < 0, units < ends[:, :1], units > ends[:, 1:])
    largest = np.where(units < 0, ends[:, :1], ends[:, 1:])
    beyond &= np.abs(largest) == np.abs(ends).max(axis=1, keepdims=True)
    assert float(summary.saturated) == pytest.approx(beyond.mean(), abs=1e-6)
    assert 0.05 < float(summary.saturated) < 0.4


def test_wasserstein_is_that_of_scipy():
    from scipy import stats

    draw = np.random.default_rng(0)
    x, y = np.float32(draw.normal(size=(2, 20, 25)))
    found = jax.jit(diagnostics.wasserstein)(jnp.asarray(x), jnp.asarray(y))
    assert found == pytest.approx(stats.wasserstein_distance(x.ravel(), y.ravel()), rel=1e-5)
    assert diagnostics.wasserstein(x, x[::-1]) == 0


def test_wasserstein_of_block_floating_point_halves_with_each_bit_and_grows_with_the_block():
    x = jax.random.normal(jax.random.key(0), (64, 2304))
    found = np.array(
        [
            [diagnostics.wasserstein(x, qjax.cast(x, qjax.qtypes.block_float(bits, block)))
             for block in (16, 36, 64, 256, 576)]
            for bits in (4, 5, 6)
        ]
    )  # fmt: skip
    assert np.all(np.diff(found[:, :4], axis=1) > 0)
    assert found[:-1] / found[1:] == pytest.approx(2, rel=0.02)
