"""All 2**32 float32 inputs against ml_dtypes, a stretch at a time. Minutes; `make test-slow`."""

import functools
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


@functools.partial(jax.jit, static_argnames="format")
def stretch(start, format):
    """Consecutive float32 patterns from `start`, as values, and the patterns of their casts."""
    words = jax.lax.iota(jnp.uint32, STRETCH) + start
    values = jax.lax.bitcast_convert_type(words, jnp.float32)
    return values, jax.lax.bitcast_convert_type(casting.cast(values, format), jnp.uint32)


def differences(format, values, ours) -> int:
    """How many float32 `values` whose casts have the patterns `ours` ml_dtypes casts otherwise."""
    values, ours = np.asarray(values), np.asarray(ours)
    with np.errstate(invalid="ignore", over="ignore"):
        clipped = np.clip(values, -np.float32(format.max), np.float32(format.max))
        theirs = clipped.astype(format.dtype).astype(np.float32)
    wrong = np.flatnonzero(ours != theirs.view(np.uint32))
    # Any NaN equals any; some formats have none, to which ml_dtypes casts NaN as zero.
    both = np.isnan(values[wrong]) & np.isnan(ours[wrong].view(np.float32))
    return len(wrong) - int(both.sum())


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS, ids=lambda f: f.name)
def test_every_float32_casts_as_in_ml_dtypes(format):
    started, wrong = time.perf_counter(), 0
    for start in range(0, 1 << 32, STRETCH):
        wrong += differences(format, *stretch(np.uint32(start), format))
    seconds = time.perf_counter() - started
    print(f"\n{format.name}: {wrong} differences in 2**32 inputs, {seconds:.0f} s", end="")
    assert wrong == 0


@pytest.mark.parametrize("format", FORMATS, ids=lambda f: f.name)
def test_patterns_spread_over_all_of_float32_cast_as_in_ml_dtypes(format):
    words = (np.arange(1 << 16, dtype=np.uint64) * 65537 + 12345).astype(np.uint32)
    values = words.view(np.float32)
    ours = np.asarray(casting.cast(jnp.asarray(values), format)).view(np.uint32)
    assert differences(format, values, ours) == 0
