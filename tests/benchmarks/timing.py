"""Two honest measures of a cast: with a fresh output, and in a compiled loop on a warm buffer.

A fresh 64 MB output costs mostly page faults on CPU, which flatters every candidate; inside a
training step buffers are warm, so the steady measure is the one to trust. Every timing of a
candidate is interleaved with one of its reference, and ratios are of medians.
"""

import statistics
import time
from collections.abc import Callable

import jax
from jax import lax

LOOP = 20


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call that returns arrays."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def ratio(candidate: Callable, reference: Callable, rounds: int = 5) -> tuple[float, float, float]:
    """Returns the ratio of median times and both medians, interleaved, after two warm-up calls."""
    for call in (candidate, reference) * 2:
        seconds(call)
    pairs = [(seconds(candidate), seconds(reference)) for _ in range(rounds)]
    ours, theirs = (statistics.median(times) for times in zip(*pairs))
    return ours / theirs, ours, theirs


def fresh(function: Callable, x: jax.Array, rounds: int = 5) -> tuple[float, float, float]:
    """Compiled `function(x)` against compiled `x + 0`, each with a fresh output."""
    ours, copy = jax.jit(function), jax.jit(lambda x: x + 0)
    return ratio(lambda: ours(x), lambda: copy(x), rounds)


def steady(function: Callable, x: jax.Array, rounds: int = 3) -> tuple[float, float, float]:
    """Twenty calls in a `fori_loop` on a donated buffer against `x + 1` in the same loop.

    `function` takes the array and the step, so that a loop cannot be simplified away.
    """

    def looped(body: Callable) -> Callable:
        loop = jax.jit(
            lambda x: lax.fori_loop(0, LOOP, lambda i, x: body(x, i), x), donate_argnums=0
        )
        state = {"x": x + 0}

        def call() -> jax.Array:
            state["x"] = loop(state["x"])
            return state["x"]

        return call

    return ratio(looped(function), looped(lambda x, i: x + 1), rounds)
