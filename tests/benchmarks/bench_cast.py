"""Throughput of casts on 4096 x 4096 float32, beside ml_dtypes and qwix where installed.

Each line gives the ratio of medians against `x + 0` with a fresh output, and in steady state
against `x + 1` in the same compiled loop; see `timing.py`. Nothing is asserted but that the figures
exist: machines and their load differ. Run with `make bench`.
"""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import casting, formats, qtensor
from tests.benchmarks.timing import fresh, ratio, steady

pytestmark = pytest.mark.benchmark
SIZE = 4096
STOCHASTIC = qjax.rounding.Stochastic()


def given_scale(x, step=0):
    """A cast with a scale that is known beforehand, as delayed scaling has it."""
    exponent = jnp.full((), 3, jnp.int32) + jnp.asarray(step, jnp.int32) // 1000
    return casting.on_grid(x, formats.E4M3FN.grid, exponent=exponent)


def stochastic(x, step=0):
    key = jax.random.fold_in(jax.random.key(0), step)
    return qjax.cast(x, "mxfp8", rounding=STOCHASTIC, key=key)


def named(name, axis=-1):
    return lambda x, step=0: qjax.cast(x, name, axis=axis)


# name: (function of array and step, aims fresh / steady)
CASES = {
    "e4m3fn, no scale": (named("e4m3fn"), "1.2 / 1.15"),
    "e4m3fn, scale given": (given_scale, "1.2 / 1.15"),
    "e4m3fn per tensor": (named("e4m3fn_tensor"), "-"),
    "int8 per channel": (named("int8_channel"), "1.2 / 1.5"),
    "mxfp8": (named("mxfp8"), "1.5 / 3"),
    "mxfp8, first axis": (named("mxfp8", 0), "1.5 / 3"),
    "mxfp6_e3m2": (named("mxfp6_e3m2"), "1.5 / 3"),
    "mxfp4": (named("mxfp4"), "1.5 / 3"),
    "nvfp4, two levels": (named("nvfp4"), "2.0 / 4"),
    "mxfp8, stochastic": (stochastic, "2.0 / 4"),
    "nf4, blocks of 64": (named("nf4_block64"), "2.5 / 5"),
}


@pytest.fixture(scope="module")
def x():
    return jax.random.normal(jax.random.key(0), (SIZE, SIZE))


@pytest.mark.parametrize("case", CASES)
def test_cast_throughput(case, x):
    function, aim = CASES[case]
    first, loop = fresh(function, x), steady(function, x)
    print(f"\n{case:22s} fresh {first[0]:5.2f}  steady {loop[0]:5.2f}  (aims {aim})", end="")
    assert first[0] > 0
    assert loop[0] > 0


def test_encode_and_pack_throughput(x):
    def packed(x):
        stored = qjax.encode(x, "mxfp4")
        return qtensor.pack(stored.qvalue, 4), stored.scale.qvalue

    print(f"\nencode, pack mxfp4     fresh {fresh(packed, x)[0]:5.2f}  (aim 2.5)", end="")


def test_peers_in_the_same_run(x):
    host, copy = np.asarray(x), jax.jit(lambda x: x + 0)
    ours = ratio(
        lambda: host.astype(formats.E4M3FN.dtype).astype(np.float32), lambda: copy(x), rounds=2
    )
    print(f"\nml_dtypes e4m3fn       fresh {ours[0]:5.2f}", end="")
    if importlib.util.find_spec("qwix") is None:
        return
    import qwix

    for name, tile in (("float8_e4m3fn", None), ("mxfp8", 32), ("mxfp4", 32), ("nvfp4", 16)):
        options = {"channelwise_axes": [], "tiled_axes": {} if tile is None else {1: tile}}

        def peer(x, name=name, options=options):
            array = qwix.quantize(x, name, **options)
            return qwix.dequantize(array)

        print(f"\nqwix {name:17s} fresh {fresh(peer, x, 3)[0]:5.2f}", end="")
