"""What every test runs under: strict promotions, eight virtual CPU devices, one platform."""

import os
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
# Workers share the cores: BLAS threads that wait for each other make small fits ten times slower.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # What one worker or process of a run compiled, the others need not compile again: a seventh of
    # the time. The first process makes the folder and removes it, the others inherit the name.
    _CACHE = tempfile.TemporaryDirectory(prefix="qjax-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.02"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def getkey():
    """Returns a function that hands out a fresh, reproducible key at every call."""
    state = {"key": jax.random.key(0)}

    def fresh() -> jax.Array:
        state["key"], key = jax.random.split(state["key"])
        return key

    return fresh
