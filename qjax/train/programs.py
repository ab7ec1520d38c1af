"""Chunks of steps as compiled programs: one for the whole run, or one for each phase of it."""

import time
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from qjax._typing import Array, PyTree
from qjax.train.schedules import Phases
from qjax.train.sharding import Placement
from qjax.train.state import State
from qjax.train.step import Step


class Batches(Protocol):
    """The batch of every step, by number: the position in the data is the step itself."""

    def __getitem__(self, step: int, /) -> PyTree: ...


class Programs:
    """Compiles and runs chunks of at most `chunk` steps.

    Args:
      step: How one step is taken.
      chunk: Length of the stack of batches that a program is compiled for.
      placement: Where batches lie on several devices.
    """

    def __init__(self, step: Step, chunk: int, placement: Placement | None):
        self.step, self.chunk, self.placement = step, chunk, placement
        self.compile_seconds = 0.0
        self._compiled: dict[int, Callable[..., Any]] = {}

    def stop(self, start: int, *stops: int) -> int:
        """Where the chunk that begins after `start` steps ends."""
        ends = [start + self.chunk, *stops]
        if isinstance(self.step.recipe, Phases):
            ends += [b for b in self.step.recipe.boundaries if b > start]
        return min(ends)

    def changes(self, start: int) -> str | None:
        """The line to show where a phase begins whose program is not compiled yet."""
        phases = self.step.recipe
        if not isinstance(phases, Phases) or phases.phase(start) in self._compiled:
            return None
        recipe = phases.recipes[phases.phase(start)]
        name = "no recipe" if recipe is None else getattr(recipe, "name", repr(recipe))
        return f"step {start}: {name} from here on, one more compilation"

    def run(self, state: State, stacked: PyTree, start: int, stop: int) -> tuple[State, Any]:
        """Takes the steps from `start` to `stop`; `state` is donated."""
        recipe = self.step.recipe
        phase = recipe.phase(start) if isinstance(recipe, Phases) else 0
        program = self._compiled.get(phase) or self._compile(phase, state, stacked)
        return program(state, stacked, jnp.int32(stop - start))

    def load(self, batches: Batches, start: int, stop: int) -> PyTree:
        """Returns the batches of the steps from `start` to `stop`, stacked and placed."""
        parts = [batches[t] for t in range(start, stop)]
        # A cut chunk is filled up with batches that are not used: one shape, one program.
        parts += parts[-1:] * (self.chunk - len(parts))
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *parts)
        return stacked if self.placement is None else self.placement.batches(stacked)

    def _compile(self, phase: int, state: State, stacked: PyTree) -> Callable[..., Any]:
        began = time.perf_counter()
        # The state stays where it lies, or the next chunk would be another program.
        placed = (jax.tree.map(lambda x: x.sharding, state), None)
        chunk = chunk_of(self.step.in_phase(phase))
        program = jax.jit(chunk, donate_argnums=0, out_shardings=placed)
        self._compiled[phase] = program.lower(state, stacked, jnp.int32(0)).compile()
        self.compile_seconds += time.perf_counter() - began
        return self._compiled[phase]


def chunk_of(step: Callable[[State, PyTree], tuple[State, dict[str, Array]]]) -> Callable[..., Any]:
    """Returns a program that takes `n` steps: (state, batches [C, ...], n <= C) -> (state, rows).

    `n` is data, so that one program serves whole and cut chunks alike; row `i` of `rows` holds
    the metrics of the i-th step, and zeros from `n` on.
    """

    def chunk(state: State, stacked: PyTree, n: Array) -> tuple[State, dict[str, Array]]:
        length = jax.tree.leaves(stacked)[0].shape[0]

        def at(i: Array | int) -> PyTree:
            return jax.tree.map(lambda x: x[i], stacked)

        _, shapes = jax.eval_shape(step, state, at(0))
        rows = jax.tree.map(lambda s: jnp.zeros((length, *s.shape), s.dtype), shapes)

        def body(i: Array, carry: tuple[State, dict[str, Array]]):
            state, rows = carry
            state, metrics = step(state, at(i))
            return state, jax.tree.map(lambda r, m: r.at[i].set(m), rows, metrics)

        return jax.lax.fori_loop(0, n, body, (state, rows))

    return chunk
