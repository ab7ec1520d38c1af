"""Throughput and memory of casts on 4096 x 4096 float32, beside ml_dtypes and qwix.

One run measures everything in turn, in a new order every round, and gives ratios of medians: with a
fresh output against `x + 0`, and in steady state, in a compiled loop on a donated buffer, against
`x + 1` in the same loop. A fresh output of this size is mostly page faults on a CPU and flatters
everybody; inside a training step buffers are warm, as in the loop. The last column is what a
program holds beside its input and output, relative to these. Nothing is asserted but the memory:
machines and their load differ. Run with `make bench`.

Where the time goes, by the compiled programs (XLA emits vectors of 8), on two cores of an AMD EPYC
(family 26), where memory bounds the loops and `x + 1` moves 47 to 64 GB/s. Two cores of an Intel
Xeon (model 207) keep 64 MiB in the third cache, so that operations count: up to five of a vector
come free with `x + 1`, each further one costs about 0.06 of it. Ratios vary by a tenth from run to
run on the first, by a fifth on the second.

- Without a scale, and with one that is known, a cast is one loop of 10 to 18 operations: 0.9 to 1.0
  on AMD, 1.4 to 1.8 on Intel.
- A scale that comes from the data needs a pass of its own for the maxima, which only reads: three
  transfers instead of two, so that 1.5 is the bound where memory is. Per-tensor casts take 1.55,
  int8 per channel 1.5 to 1.6. (On Intel 2.6 and 2.4 before the casts took fewer operations; a pass
  over the maxima in C takes 0.9 there.) XLA does not reduce a row and use it while it is in the
  cache: loops over blocks of rows take 2.1 and more, written out 1.9, joined again 4.7.
- Blocks need their maxima first, then one number for every block, which is in memory before the
  elements are read: 1.6 to 1.8 along the last axis, 2.4 along the first, where there is one such
  number to read per element; NVFP4's two levels 2.3 to 2.5.
- Stochastic rounding adds the hash of the index, 13 operations, and 7 to compare with it: 2.6.
"""

import importlib.metadata
import importlib.util
import os
import platform
import random
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import casting, formats, qtensor

pytestmark = pytest.mark.benchmark
SIZE, LOOP, ROUNDS = 4096, 10, 15
STOCHASTIC = qjax.rounding.Stochastic()


def power_given(x, step=0):
    """A cast with a power-of-two scale that is known beforehand."""
    exponent = jnp.full((), 3, jnp.int32) + jnp.asarray(step, jnp.int32) // 1000
    return casting.on_grid(x, formats.E4M3FN.grid, exponent=exponent)


def scale_given(x, step=0):
    """A cast with a float scale that is known beforehand, as delayed scaling has it."""
    scale = jnp.full((), 0.037) + (jnp.asarray(step, jnp.int32) // 1000).astype(jnp.float32)
    return casting.on_grid(x * (1 / scale), formats.E4M3FN.grid) * scale


def stochastic(x, step=0):
    key = jax.random.fold_in(jax.random.key(0), step)
    return qjax.cast(x, "mxfp8", rounding=STOCHASTIC, key=key)


def encoded(x, step=0):
    """Codes packed two to a byte, and scales; there is no steady state of it."""
    stored = qjax.encode(x, "mxfp4")
    return qtensor.pack(stored.qvalue, 4), stored.scale.qvalue


def named(name, axis=-1):
    return lambda x, step=0: qjax.cast(x, name, axis=axis)


# name: (function of array and step, aim fresh, aim steady or None)
CASES = {
    "e4m3fn, no scale": (named("e4m3fn"), 1.2, 1.15),
    "e4m3fn, scale given": (scale_given, 1.2, 1.15),
    "e4m3fn, power given": (power_given, 1.2, 1.15),
    "e4m3fn per tensor": (named("e4m3fn_tensor"), 1.2, 1.15),
    "int8 per channel": (named("int8_channel"), 1.2, 1.5),
    "mxfp8": (named("mxfp8"), 1.5, 3),
    "mxfp8, first axis": (named("mxfp8", 0), 1.5, 3),
    "mxfp6_e3m2": (named("mxfp6_e3m2"), 1.5, 3),
    "mxfp4": (named("mxfp4"), 1.5, 3),
    "nvfp4, two levels": (named("nvfp4"), 2.0, 4),
    "mxfp8, stochastic": (stochastic, 2.0, 4),
    "nf4, blocks of 64": (named("nf4_block64"), 2.5, 5),
    "mxfp4, coded, packed": (encoded, 2.5, None),
}


def seconds(call):
    """Wall time of one call that returns arrays."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def fresh(function, x):
    """A call whose output is a new array."""
    compiled = jax.jit(function)
    return lambda: compiled(x)


def in_loop(function, x):
    """A call that casts a donated buffer again and again."""
    loop = jax.jit(
        lambda x: jax.lax.fori_loop(0, LOOP, lambda i, x: function(x, i), x), donate_argnums=0
    )
    state = {"x": x + 0}

    def call():
        state["x"] = loop(state["x"])
        return state["x"]

    return call


def extra_memory(function, x):
    """Temporary bytes of the compiled function, of those of its input and output."""
    found = jax.jit(function).lower(x).compile().memory_analysis()
    return found.temp_size_in_bytes / (found.argument_size_in_bytes + found.output_size_in_bytes)


def peers(x):
    """Calls of other libraries by name, those that are installed."""
    host = np.asarray(x)
    calls = {"ml_dtypes e4m3fn": lambda: host.astype(formats.E4M3FN.dtype).astype(np.float32)}
    if importlib.util.find_spec("qwix") is None:
        return calls
    import qwix

    tiled = {"channelwise_axes": [], "tiled_axes": {}}
    for label, name, options in (
        ("qwix e4m3fn per tensor", "float8_e4m3fn", tiled),
        ("qwix int8 per channel", "int8", {**tiled, "channelwise_axes": [0]}),
        ("qwix mxfp8", "mxfp8", {**tiled, "tiled_axes": {1: 32}}),
        ("qwix mxfp4", "mxfp4", {**tiled, "tiled_axes": {1: 32}}),
        ("qwix nvfp4, one level", "nvfp4", {**tiled, "tiled_axes": {1: 16}}),
        ("qwix nf4, blocks of 64", "nf4", {**tiled, "tiled_axes": {1: 64}}),
    ):

        def peer(x, name=name, options=options):
            return qwix.dequantize(qwix.quantize(x, name, **options))

        calls[label] = fresh(peer, x)
    return calls


@jax.numpy_dtype_promotion("standard")  # as users run it
def test_casts():
    x = jax.random.normal(jax.random.key(0), (SIZE, SIZE))
    calls = {"x + 0": fresh(lambda x: x + 0, x), "x + 1": in_loop(lambda x, i: x + 1, x)}
    for name, (function, _, steady) in CASES.items():
        calls[name] = fresh(function, x)
        if steady is not None:
            calls[name, "steady"] = in_loop(function, x)
    calls |= peers(x)
    times = {name: [] for name in calls}
    for call in list(calls.values()) * 2:
        seconds(call)
    for _ in range(ROUNDS):
        for name in random.sample(list(calls), len(calls)):
            times[name].append(seconds(calls[name]))
    median = {name: statistics.median(values) for name, values in times.items()}
    report(median, {name: extra_memory(case[0], x) for name, case in CASES.items()})


def report(median, memory):
    """Prints the table; temporary memory is bounded."""
    names = ("jax", "jaxlib", "ml_dtypes", "qwix", "numpy")
    found = [name for name in names if importlib.util.find_spec(name)]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in found)
    print(
        f"\n{platform.machine()}, {os.cpu_count()} cores, {jax.devices()[0].platform}; {versions}"
    )
    copy, add = median["x + 0"], median["x + 1"] / LOOP
    print(f"x + 0 fresh {copy * 1e3:.1f} ms, x + 1 steady {add * 1e3:.2f} ms")
    print(f"{'':24}fresh (aim)   steady (aim)  extra memory")
    for name, (_, aim, steady) in CASES.items():
        line = f"{name:24}{median[name] / copy:5.2f} ({aim:.1f})"
        if steady is not None:
            line += f"  {median[name, 'steady'] / LOOP / add:6.2f} ({steady:.2f})"
        print(f"{line:52}{memory[name]:6.1%}")
        assert memory[name] <= 0.1, f"{name} holds {memory[name]:.0%} beside input and output"
    for name in median:
        if isinstance(name, str) and name.startswith(("ml_dtypes", "qwix")):
            print(f"{name:24}{median[name] / copy:5.2f}")
