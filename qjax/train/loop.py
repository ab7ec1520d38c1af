"""The training loop: chunks of steps on the device; between them metrics, evaluation, signals.

Everything that happens on the host happens here, between two chunks. What one step computes is
`qjax.train.step`.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from qjax._typing import Array, PyTree
from qjax.train import distributed
from qjax.train.checkpoints import Checkpoints
from qjax.train.evaluation import Evaluation
from qjax.train.interruption import Diverged, Interrupted, Watch
from qjax.train.metrics import MetricsFile
from qjax.train.progress import Progress, Silent
from qjax.train.sharding import Placement
from qjax.train.state import State
from qjax.train.step import Step


class Batches(Protocol):
    """The batch of every step, by number: the position in the data is the step itself."""

    def __getitem__(self, step: int, /) -> PyTree: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What a run leaves behind.

    Attributes:
      state: The last state, or None where the run diverged.
      history: Arrays [T] by name, one value per step taken in this call: `loss`, `grad_norm`, ...
      evaluations: Held-out losses, in order of steps.
      per_second: Median items (tokens) per second over chunks, compiling and evaluating aside.
      compile_seconds: Time to compile the chunk.
    """

    state: State | None
    history: Mapping[str, np.ndarray]
    evaluations: tuple[Evaluation, ...]
    per_second: float
    compile_seconds: float


def run(
    step: Step,
    state: State,
    batches: Batches,
    *,
    steps: int,
    chunk: int = 10,
    evaluate: Callable[[State], Evaluation] | None = None,
    evaluate_every: int | None = None,
    metrics: MetricsFile | None = None,
    checkpoints: Checkpoints | None = None,
    placement: Placement | None = None,
    progress: Progress | None = None,
    items: Callable[[PyTree], int] | None = None,
) -> Result:
    """Trains until `steps` steps have been taken in all, those before `state` included.

    Args:
      step: How one step is taken.
      state: Where to start. Its buffers are donated: use the result's state from then on.
      batches: `batches[t]` is the batch of the step after `t` steps.
      steps: Total number of steps.
      chunk: Steps between two looks of the host (metrics, signals), run as one program.
      evaluate: From `make_evaluator`; called every `evaluate_every` steps and at the end.
      evaluate_every: Steps between evaluations; None: only at the end.
      metrics: Where to append one row per step and per evaluation.
      checkpoints: Where to save the state every so many steps, at the end and on a signal.
      placement: Where batches lie on several devices; `state` must be placed by it too.
      progress: The display; None: silent.
      items: Counts what `per_second` counts in a batch; by default the elements of its
        `targets`, or of its first leaf's first axis.

    Returns:
      The result of the whole run.

    Raises:
      Interrupted: After a signal, once the chunk is finished and written. Left alone, it ends
        the process with its own exit code.
      Diverged: If a loss or gradient is not finite; the message names the step.
      ValueError: If `steps` or `chunk` is not positive.
    """
    for name, value in (("steps", steps), ("chunk", chunk)):
        if value < 1:
            raise ValueError(
                f"`{name}` must be at least 1, but is {value}. Give a positive number."
            )
    loop = _Loop(
        step=step, chunk=chunk, metrics=metrics, placement=placement, items=items or _count
    )
    display = progress if progress is not None and distributed.first() else Silent()
    with display, Watch() as watch:
        at = int(state.step)
        while at < steps:
            stop = _stop(at, chunk, steps, evaluate_every, checkpoints and checkpoints.every)
            state = loop.advance(state, batches, at, stop)
            at = stop
            display.update(at, float(loop.history["loss"][-1]), loop.speeds[-1])
            signal = distributed.agreed(watch.received)
            due = at == steps or (evaluate_every is not None and at % evaluate_every == 0)
            if evaluate is not None and due and signal is None:
                display.say(loop.evaluated(evaluate(state)))
            stopping = signal is not None and at < steps
            if checkpoints is not None and (at == steps or at % checkpoints.every == 0 or stopping):
                checkpoints.save(state, loss=loop.held_out(at))
            if signal is not None and stopping:
                display.say(f"stopped by a signal after step {at} of {steps}")
                if checkpoints is not None:
                    checkpoints.wait()
                raise Interrupted(loop.result(state), signal)
    return loop.result(state)


class _Loop:
    """The compiled chunk and the record of one call of `run`."""

    def __init__(
        self,
        *,
        step: Step,
        chunk: int,
        metrics: MetricsFile | None,
        placement: Placement | None,
        items: Callable[[PyTree], int],
    ):
        self.step, self.chunk, self.items = step, chunk, items
        self.metrics = metrics if distributed.first() else None
        self.placement = placement
        self.history: dict[str, list[float]] = {}
        self.evaluations: list[Evaluation] = []
        self.speeds: list[float] = []
        self.compile_seconds = 0.0
        self._compiled: Callable[..., Any] | None = None
        self._next: tuple[int, PyTree] | None = None

    def advance(self, state: State, batches: Batches, start: int, stop: int) -> State:
        """Takes the steps from `start` to `stop` and records them."""
        stacked = self._stacked(batches, start, stop)
        program = self._compiled or self._compile(state, stacked)
        began = time.perf_counter()
        state, rows = program(state, stacked, jnp.int32(stop - start))
        # The device computes meanwhile.
        items = self.items(jax.tree.map(lambda x: x[0], stacked)) * (stop - start)
        rows = {k: np.asarray(v)[: stop - start] for k, v in rows.items()}
        self.speeds.append(items / (time.perf_counter() - began))
        self._check(rows, start)
        for name, values in rows.items():
            self.history.setdefault(name, []).extend(values.tolist())
        self._write(
            {"step": start + i + 1, **{k: float(v[i]) for k, v in rows.items()}}
            | {"per_second": round(self.speeds[-1], 1)}
            for i in range(stop - start)
        )
        return state

    def evaluated(self, evaluation: Evaluation) -> str:
        """Records an evaluation and returns the line to show."""
        self.evaluations.append(evaluation)
        self._write([{"step": evaluation.step, "held_out_loss": evaluation.loss}])
        return f"step {evaluation.step}: held-out loss {evaluation.loss:.4f}"

    def held_out(self, step: int) -> float | None:
        """The held-out loss measured after exactly `step` steps, if there is one."""
        last = self.evaluations[-1] if self.evaluations else None
        return last.loss if last is not None and last.step == step else None

    def result(self, state: State | None) -> Result:
        return Result(
            state=state,
            history={name: np.asarray(values) for name, values in self.history.items()},
            evaluations=tuple(self.evaluations),
            per_second=float(np.median(self.speeds)) if self.speeds else 0.0,
            compile_seconds=self.compile_seconds,
        )

    def _stacked(self, batches: Batches, start: int, stop: int) -> PyTree:
        parts = [batches[t] for t in range(start, stop)]
        # A cut chunk is filled up with batches that are not used: one shape, one program.
        parts += parts[-1:] * (self.chunk - len(parts))
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *parts)
        return stacked if self.placement is None else self.placement.batches(stacked)

    def _compile(self, state: State, stacked: PyTree) -> Callable[..., Any]:
        began = time.perf_counter()
        # The state stays where it lies, or the next chunk would be another program.
        placed = (jax.tree.map(lambda x: x.sharding, state), None)
        program = jax.jit(chunk_of(self.step), donate_argnums=0, out_shardings=placed)
        self._compiled = program.lower(state, stacked, jnp.int32(0)).compile()
        self.compile_seconds = time.perf_counter() - began
        return self._compiled

    def _check(self, rows: dict[str, np.ndarray], start: int) -> None:
        skips = self.step.loss_scale is not None and self.step.loss_scale.skips
        for name in ("loss",) if skips else ("loss", "grad_norm"):
            bad = np.flatnonzero(~np.isfinite(rows[name]))
            if len(bad):
                at = start + int(bad[0]) + 1
                raise Diverged(
                    f"The {name.replace('grad_norm', 'gradient norm')} at step {at} is "
                    f"{rows[name][bad[0]]}: the run stops there. Look at the batch of step {at}, "
                    "lower the learning rate, or give the step a `clip` or a `loss_scale`.",
                    self.result(None),
                    at,
                )

    def _write(self, rows: Any) -> None:
        if self.metrics is not None:
            self.metrics.write(list(rows))


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


def _stop(at: int, chunk: int, steps: int, *intervals: int | None) -> int:
    """Where the next chunk ends: nowhere beyond the end or the next multiple of an interval."""
    multiples = [(at // every + 1) * every for every in intervals if every is not None]
    return min(at + chunk, steps, *multiples)


def _count(batch: PyTree) -> int:
    if isinstance(batch, Mapping) and "targets" in batch:
        return int(np.size(batch["targets"]))
    return int(np.shape(jax.tree.leaves(batch)[0])[0])
