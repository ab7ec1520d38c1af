"""The training loop: chunks of steps on the device; between them metrics, evaluation, signals.

Everything that happens on the host happens here, between two chunks. What one step computes is
`qjax.train.step`; how chunks become programs is `qjax.train.programs`.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from qjax._typing import PyTree
from qjax.train import distributed
from qjax.train.checkpoints import Checkpoints
from qjax.train.data import Stream
from qjax.train.evaluation import Evaluation
from qjax.train.interruption import Interrupted, Watch
from qjax.train.metrics import Metrics
from qjax.train.programs import Batches, Programs
from qjax.train.progress import Progress, Silent
from qjax.train.record import Record, Result
from qjax.train.sharding import Placement
from qjax.train.state import State
from qjax.train.step import Step


def run(
    step: Step,
    state: State,
    batches: Batches,
    *,
    steps: int,
    chunk: int = 10,
    evaluate: Callable[[State], Evaluation] | None = None,
    evaluate_every: int | None = None,
    metrics: Metrics | None = None,
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
      items: Counts what `per_second` counts in a batch; None: its `targets`, or its samples.

    Raises:
      Interrupted: After a signal, once the chunk is finished and written. Left alone, it ends
        the process with its own exit code.
      Diverged: If a loss or gradient is not finite; the message names the step.
      ValueError: If `steps` or `chunk` is not positive.
    """
    _check_positive(steps=steps, chunk=chunk)
    looks = _Looks(steps, items or _count, evaluate, evaluate_every, checkpoints)
    programs, record = Programs(step, chunk, placement), _record(step, metrics)
    display = progress if progress is not None and distributed.first() else Silent()
    with display, Watch() as watch:
        return _train(programs, record, state, batches, looks, display, watch)


@dataclasses.dataclass(frozen=True)
class _Looks:
    """What the host does between two chunks; the attributes are the arguments of `run`."""

    steps: int
    items: Callable[[PyTree], int]
    evaluate: Callable[[State], Evaluation] | None
    evaluate_every: int | None
    checkpoints: Checkpoints | None

    @property
    def save_every(self) -> int | None:
        return None if self.checkpoints is None else self.checkpoints.every


def _train(
    programs: Programs,
    record: Record,
    state: State,
    batches: Batches,
    looks: _Looks,
    display: Progress,
    watch: Watch,
) -> Result:
    """Runs chunk after chunk, and looks between them."""
    at = int(state.step)
    while at < looks.steps:
        events = _multiples(at, looks.evaluate_every, looks.save_every)
        stop = programs.stop(at, looks.steps, *events)
        if line := programs.changes(at):
            display.say(line)
        state = _advance(programs, record, state, batches, at, stop, looks.items)
        at = stop
        display.update(at, record.history["loss"][-1], record.speeds[-1])
        signal = distributed.agreed(watch.received)
        due = _due(at, looks.steps, looks.evaluate_every)
        if looks.evaluate is not None and signal is None and due:
            record.evaluation(looks.evaluate(state))
            display.say(f"step {at}: held-out loss {record.evaluations[-1].loss:.4f}")
        if looks.checkpoints is not None and (signal or _due(at, looks.steps, looks.save_every)):
            _save(looks.checkpoints, state, batches, record.held_out(at))
        if signal is not None and at < looks.steps:
            display.say(f"stopped by a signal after step {at} of {looks.steps}")
            if looks.checkpoints is not None:
                looks.checkpoints.wait()
            raise Interrupted(record.result(state, programs.compile_seconds), signal)
    return record.result(state, programs.compile_seconds)


def _advance(
    programs: Programs,
    record: Record,
    state: State,
    batches: Batches,
    start: int,
    stop: int,
    items: Callable[[PyTree], int],
) -> State:
    """Takes the steps from `start` to `stop` and records them."""
    stacked = programs.load(batches, start, stop)
    compiled = programs.compile_seconds
    began = time.perf_counter()
    state, rows = programs.run(state, stacked, start, stop)
    # The device computes meanwhile; reading the rows waits for it.
    count = (stop - start) * items(jax.tree.map(lambda x: x[0], stacked))
    rows = {name: np.asarray(values)[: stop - start] for name, values in rows.items()}
    spent = time.perf_counter() - began - (programs.compile_seconds - compiled)
    record.steps(rows, start, count / spent)
    return state


def _record(step: Step, metrics: Metrics | None) -> Record:
    # A loss scale that skips steps expects gradients that are not finite.
    skips = step.loss_scale is not None and step.loss_scale.skips
    return Record(metrics, finite=("loss",) if skips else ("loss", "grad_norm"))


def _save(checkpoints: Checkpoints, state: State, batches: Batches, loss: float | None) -> None:
    position = batches.position() if isinstance(batches, Stream) else None
    checkpoints.save(state, loss=loss, position=position)


def _check_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, but is {value}. Give more.")


def _multiples(at: int, *intervals: int | None) -> list[int]:
    """The next multiple of each interval after `at`."""
    return [(at // every + 1) * every for every in intervals if every is not None]


def _due(at: int, steps: int, every: int | None) -> bool:
    """Whether something done every so many steps, and at the end, is due after `at` steps."""
    return at == steps or (every is not None and at % every == 0)


def _count(batch: Any) -> int:
    if isinstance(batch, Mapping) and "targets" in batch:
        return int(np.size(batch["targets"]))
    return int(np.shape(jax.tree.leaves(batch)[0])[0])
