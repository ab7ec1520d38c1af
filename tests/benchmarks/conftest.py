"""Benchmarks compile what they time: nothing is kept for the next one."""

import jax
import pytest


@pytest.fixture(autouse=True)
def compile_anew():
    """Keeps programs out of the compile cache of the test run: times to compile are measured."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, float("inf"))
    yield
    jax.config.update(name, before)
