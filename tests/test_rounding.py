"""Stochastic rounding is unbiased and its noise is independent, within stated sigmas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qjax import casting, formats
from qjax.rounding import Stochastic, noise

COUNT = 1 << 18


@pytest.mark.parametrize("format", [formats.E4M3FN, formats.E2M1FN, formats.INT4, formats.E5M2])
@pytest.mark.parametrize("value", [0.3, -0.55, 1.1, 2.4, -3.9, 0.001])
def test_the_mean_is_the_value_within_five_sigma(format, value):
    x = jnp.full(COUNT, value)
    result = np.asarray(
        casting.cast(x, format, rounding=Stochastic(), key=jax.random.key(3)), np.float64
    )
    neighbours = np.unique(result)
    assert len(neighbours) == 2
    low, high = neighbours
    part = (float(np.float32(value)) - low) / (high - low)
    sigma = (high - low) * np.sqrt(part * (1 - part) / COUNT)
    assert abs(result.mean() - float(np.float32(value))) < 5 * sigma
    spread = (high - low) ** 2 * part * (1 - part)
    assert abs(result.var() / spread - 1) < 6 / np.sqrt(COUNT * part * (1 - part))


def test_values_on_the_grid_never_move():
    values = jnp.asarray(formats.E4M3FN.values(), jnp.float32)
    for seed in range(20):
        key = jax.random.key(seed)
        assert jnp.array_equal(
            casting.cast(values, formats.E4M3FN, rounding=Stochastic(), key=key), values
        )


def uniform(key, count=COUNT) -> np.ndarray:
    words = noise(key, jax.lax.iota(jnp.uint32, count))
    return np.asarray(words, np.float64) / 2**32 - 0.5


def correlation(a, b) -> float:
    """Correlation in units of its standard deviation under independence."""
    return float(np.mean(a * b) * 12 * np.sqrt(len(a)))


def test_noise_is_uniform():
    u = uniform(jax.random.key(0))
    counts = np.histogram(u, bins=256, range=(-0.5, 0.5))[0]
    expected = COUNT / 256
    chi = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi - 255) < 5 * np.sqrt(2 * 255)
    words = (u + 0.5) * 2**32
    for bit in range(32):
        ones = ((words.astype(np.uint64) >> bit) & 1).mean()
        assert abs(ones - 0.5) < 5 * 0.5 / np.sqrt(COUNT)


@pytest.mark.parametrize("lag", [1, 2, 3, 31, 32, 64, 255, 256, 1024, 4096])
def test_neighbours_are_uncorrelated(lag):
    u = uniform(jax.random.key(1))
    assert abs(correlation(u[:-lag], u[lag:])) < 5


def test_streams_of_related_keys_are_uncorrelated():
    keys = [jax.random.key(seed) for seed in range(8)]
    keys += list(jax.random.split(jax.random.key(9), 4))
    keys += [jax.random.fold_in(jax.random.key(0), step) for step in range(4)]
    streams = [uniform(key, 1 << 16) for key in keys]
    for i, a in enumerate(streams):
        for b in streams[:i]:
            for lag in (0, 1, 7):
                assert abs(correlation(a[lag:], b[: len(b) - lag])) < 5.5


def test_noise_is_the_same_for_raw_and_typed_keys_and_under_jit():
    index = jax.lax.iota(jnp.uint32, 100)
    key = jax.random.key(7)
    raw = jax.random.key_data(key)
    assert jnp.array_equal(noise(key, index), noise(raw, index))
    assert jnp.array_equal(noise(key, index), jax.jit(noise)(key, index))


def test_few_bits_need_a_legal_number():
    with pytest.raises(ValueError, match="bits=25"):
        Stochastic(bits=25)
