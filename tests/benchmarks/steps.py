"""Training steps to be timed against each other: built, compiled, and run in turn.

A ratio is the median over rounds of the ratio within a round, so that drifts of the machine
cancel; the time to trace and compile is the median over builds, each from cold caches.
"""

import dataclasses
import os
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import optax

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "examples"))
import lm

# Flax's float8 layers keep their scales here, and get the next ones as "gradients".
OVERWRITTEN = "_overwrite_with_gradient"
STEPS = 2


@dataclasses.dataclass
class Program:
    """A compiled function of a few steps on a donated state.

    Attributes:
      compiled: The function.
      carry: Its state.
      seconds: What tracing and compiling took.
      temporary: Bytes of temporary memory that it asks for.
    """

    compiled: Any
    carry: Any
    seconds: float
    temporary: int

    def step(self) -> float:
        """Runs the steps; returns the seconds of one."""
        start = time.perf_counter()
        self.carry = jax.block_until_ready(self.compiled(self.carry))
        return (time.perf_counter() - start) / STEPS


def build(model: Any, size: lm.Size, batch: int, *, cold: bool = False) -> Program:
    """Compiles forward, backward and AdamW of a language model on random bytes."""
    if cold:
        jax.clear_caches()
    tokens = jax.random.randint(jax.random.key(0), (batch, size.length + 1), 0, 256)
    variables = jax.jit(model.init)(jax.random.key(1), tokens[:, :-1])
    optimizer = optax.adamw(1e-3)

    def step(carry, i):
        variables, state = carry

        def loss(variables):
            rngs = {"quant": jax.random.fold_in(jax.random.key(2), i)}
            logits = model.apply(variables, tokens[:, :-1], rngs=rngs)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
            return losses.mean()

        grads = jax.grad(loss)(variables)
        updates, state = optimizer.update(grads["params"], state, variables["params"])
        found = {"params": optax.apply_updates(variables["params"], updates)}
        kept = {k: grads[k] if k == OVERWRITTEN else v for k, v in variables.items()}
        return ({**kept, **found}, state), None

    def run(carry):
        return jax.lax.scan(step, carry, jnp.arange(STEPS))[0]

    carry = (variables, optimizer.init(variables["params"]))
    start = time.perf_counter()
    compiled = jax.jit(run, donate_argnums=0).lower(carry).compile()
    seconds = time.perf_counter() - start
    return Program(compiled, carry, seconds, compiled.memory_analysis().temp_size_in_bytes)


def compare(
    models: Mapping[str, Callable[[], Any]],
    size: lm.Size,
    batch: int,
    aims: Mapping[str, float],
    *,
    rounds: int = 7,
    builds: int = 1,
) -> dict[str, float]:
    """Prints, for every model, time, memory and compile time against the first; returns ratios."""
    made: dict[str, list[Program]] = {name: [] for name in models}
    for _ in range(builds):
        for name, make in models.items():
            made[name].append(build(make(), size, batch, cold=True))
    programs = {name: found[-1] for name, found in made.items()}
    times: dict[str, list[float]] = {name: [] for name in programs}
    for program in programs.values():
        program.step()
    for _ in range(rounds):
        for name, program in programs.items():
            times[name].append(program.step())
    print(f"\n{machine()}\n{size}, batch {batch}: forward, backward and AdamW")
    plain = next(iter(programs))
    compiling = {n: statistics.median(p.seconds for p in found) for n, found in made.items()}
    ratios = {}
    for name, values in times.items():
        ratios[name] = statistics.median(a / b for a, b in zip(values, times[plain]))
        print(
            f"{name:34} {statistics.median(values) * 1e3:7.1f} ms  x{ratios[name]:.2f}"
            f"{f' (aim {aims[name]:.2f})' if name in aims else '':11}"
            f"  trace and compile x{compiling[name] / compiling[plain]:.2f}"
            f"  temporary memory x{programs[name].temporary / programs[plain].temporary:.2f}"
        )
    return ratios


def machine() -> str:
    """The processor, its narrow products, and the versions that a figure depends on."""
    found = pathlib.Path("/proc/cpuinfo")
    text = found.read_text() if found.exists() else ""
    names = [x.partition(":")[2].strip() for x in text.splitlines() if x.startswith("model name")]
    has = [flag for flag in ("amx_int8", "amx_bf16", "avx512_vnni", "avx512_bf16") if flag in text]
    versions = " ".join(f"{name} {metadata.version(name)}" for name in ("jax", "flax", "optax"))
    processor = names[0] if names else platform.machine()
    return (
        f"{processor}, {os.cpu_count()} cores, {' '.join(has) or 'no narrow products'}, {versions}"
    )
