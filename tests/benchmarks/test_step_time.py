"""Time of one training step of the example's language model, quantized against float32.

Every recipe's step is timed in turn with the float32 step, and the ratio is the median over
rounds of the ratio within a round, so that drifts of the machine cancel. The limit of an
emulated recipe on a CPU is memory bandwidth: its six quantizations read and write each operand
of every contraction once more.
"""

import pathlib
import platform
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import optax
import pytest

import qjax

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "examples"))
import lm

RECIPES = ("mxfp8", "mxfp4", "mxfp4_rne", "int8", "fp8", "hbfp4")
AIMS = {"mxfp8": 1.4}
BATCH, STEPS, ROUNDS = 8, 3, 9
SIZE = lm.Size(layers=2, width=256, heads=4, length=128)


def build(name):
    """A compiled function of several steps on a donated state, its state and compile time."""
    model = lm.LanguageModel(SIZE)
    if name != "float32":
        model = qjax.quantize(model, name)
    tokens = jax.random.randint(jax.random.key(0), (BATCH, SIZE.length + 1), 0, 256)
    params = jax.jit(model.init)(jax.random.key(1), tokens[:, :-1])
    optimizer = optax.adamw(1e-3)

    def step(carry, i):
        params, opt_state = carry

        def loss(params):
            rngs = {"quant": jax.random.fold_in(jax.random.key(2), i)}
            logits = model.apply(params, tokens[:, :-1], rngs=rngs)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
            return losses.mean()

        updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    def run(carry):
        return jax.lax.scan(step, carry, jnp.arange(STEPS))[0]

    carry = (params, optimizer.init(params))
    start = time.perf_counter()
    compiled = jax.jit(run, donate_argnums=0).lower(carry).compile()
    return [compiled, carry, time.perf_counter() - start]


def once(program):
    compiled, carry, _ = program
    start = time.perf_counter()
    program[1] = jax.block_until_ready(compiled(carry))
    return (time.perf_counter() - start) / STEPS


@pytest.mark.benchmark
@jax.numpy_dtype_promotion("standard")  # as users run it
def test_step_time():
    programs = {name: build(name) for name in ("float32", *RECIPES)}
    times = {name: [] for name in programs}
    for _ in range(ROUNDS):
        for name, program in programs.items():
            times[name].append(once(program))
    print(f"\n{platform.processor() or platform.machine()}, jax {jax.__version__}, {jax.devices()}")
    print(f"{SIZE}, batch {BATCH}: forward, backward and AdamW")
    plain = programs["float32"][2]
    for name, values in times.items():
        ratio = statistics.median(a / b for a, b in zip(values, times["float32"]))
        compile_ratio = programs[name][2] / plain
        aim = f"aim {AIMS[name]}" if name in AIMS else ""
        median = statistics.median(values) * 1e3
        print(f"{name:10} {median:7.1f} ms  x{ratio:.2f}  compile x{compile_ratio:.1f}  {aim}")
