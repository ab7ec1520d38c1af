"""All 2**32 float32 inputs against ml_dtypes, a stretch at a time. Minutes; `make test-slow`."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qjax import casting, formats

STRETCH = 1 << 24
FORMATS = [
    formats.E4M3FN,
    formats.E5M2,
    formats.E2M1FN,
    formats.E2M3FN,
    formats.E3M2FN,
    formats.BFLOAT16,
]


@jax.jit
def patterns(start):
    """Consecutive float32 patterns from `start`, made on the device."""
    return jax.lax.iota(jnp.uint32, STRETCH) + start


def differences(format, words) -> int:
    """How many of the float32 patterns `words` cast otherwise than in ml_dtypes."""
    values = np.asarray(words).view(np.float32)
    ours = np.asarray(casting.cast(jnp.asarray(values), format))
    with np.errstate(invalid="ignore", over="ignore"):
        clipped = np.clip(values, -np.float32(format.max), np.float32(format.max))
        theirs = clipped.astype(format.dtype).astype(np.float32)
    nan = np.isnan(values)
    return int(
        (np.where(nan, ~np.isnan(ours), ours.view(np.uint32) != theirs.view(np.uint32))).sum()
    )


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS, ids=lambda f: f.name)
def test_every_float32_casts_as_in_ml_dtypes(format):
    started, wrong = time.perf_counter(), 0
    for start in range(0, 1 << 32, STRETCH):
        wrong += differences(format, patterns(np.uint32(start)))
    seconds = time.perf_counter() - started
    print(f"\n{format.name}: {wrong} differences in 2**32 inputs, {seconds:.0f} s", end="")
    assert wrong == 0


@pytest.mark.parametrize("format", FORMATS, ids=lambda f: f.name)
def test_patterns_spread_over_all_of_float32_cast_as_in_ml_dtypes(format):
    words = (np.arange(1 << 16, dtype=np.uint64) * 65537 + 12345).astype(np.uint32)
    assert differences(format, words) == 0
