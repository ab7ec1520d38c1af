"""Trains many formats at once: the whole run is mapped over recipes, seeds and learning rates.

A format is a pytree of numbers, so recipes that differ in numbers alone share one compiled
program. Recipes of another structure (other tiles or roundings) form another group with a
program of its own. Sizes of model and data are loops around this, in the caller.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from qjax._typing import Array, PyTree
from qjax.recipes import Recipe
from qjax.train.evaluation import standard_error
from qjax.train.facts import facts
from qjax.train.programs import Batches, chunk_of
from qjax.train.progress import Progress, Silent
from qjax.train.state import State
from qjax.train.step import Step
from qjax.train.table import read_table, write_table
from qjax.train.versions import versions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """One run of a sweep.

    Attributes:
      recipe: What it computes in, with static numbers; None: as the model is.
      seed: Seeds the parameters and the noise of roundings.
      rate: Learning rate, passed on to `make_step`.
      columns: More columns for its row in the table.
    """

    recipe: Recipe | None = None
    seed: int = 0
    rate: float = 1.0
    columns: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def row(self) -> dict[str, Any]:
        """The columns that are known before it ran."""
        known = facts(self.recipe)
        name = {"run": f"{known['recipe']}:{known['format']}/seed={self.seed}/rate={self.rate:g}"}
        return {**name, **known, "seed": self.seed, "rate": self.rate, **self.columns}


def sweep(
    trials: Sequence[Trial],
    make_step: Callable[[Any, Array], Step],
    batches: Batches,
    *,
    steps: int,
    held_out: Sequence[PyTree],
    table: str | None = None,
    at_once: int | None = None,
    chunk: int = 20,
    mesh: Mesh | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Trains every trial on the same batches and returns one row for each.

    Args:
      trials: What to train, but for those that are in the table already with as many steps.
      make_step: Maps (recipe, rate), which may be traced, to a step; decides nothing by values.
      batches: `batches[t]` is the batch of step `t`, of all trials.
      steps: Steps of every run.
      held_out: Batches that the final loss is measured on.
      table: CSV file that rows are added to as they come, whole or not at all.
      at_once: Trials that train together; None: all of one structure.
      chunk: Steps between two looks of the host.
      mesh: Spreads trials over the devices of its only axis.
      progress: The display.

    Returns:
      A row per trial: its columns, `status` ("ok" or "diverged at step t"), `loss` (empty if so),
      its standard error over batches `loss_se`, `final`, `steps`, `seconds` per trial, versions.

    Raises:
      ValueError: If two trials are the same run, or there are none.
    """
    names = _names(trials)
    done, others = _stored(table, trials, names, steps)
    rows: dict[str, Any] = dict(done)
    with progress or Silent() as display:
        for group in _groups([(n, t) for n, t in zip(names, trials) if n not in done]):
            runner = _Runner([t for _, t in group], make_step, batches, held_out, mesh)
            for named in runner.in_turn(group, at_once, steps, chunk, display):
                rows.update(named)
                if table:
                    write_table([*others, *(rows[n] for n in names if n in rows)], table)
    return [rows[name] for name in names]


def _names(trials: Sequence[Trial]) -> list[str]:
    """One name for each trial, by all that is known of it beforehand."""
    names = [trial.row["run"] + repr(sorted(trial.columns.items())) for trial in trials]
    if not trials or len(set(names)) < len(names):
        raise ValueError(
            f"`trials` must be distinct and at least one, but {len(names)} came with "
            f"{len(set(names))} different names. Give each its own recipe, seed, rate or columns."
        )
    return names


def _stored(
    table: str | None, trials: Sequence[Trial], names: Sequence[str], steps: int
) -> tuple[dict[str, Any], list[Any]]:
    """The rows of trials that are in the table already, by name, and all others in it."""
    stored = read_table(table) if table else []
    # Rows of runs of another length, too, are other runs.
    alike = [row for row in stored if row.get("steps") == steps]
    done = {name: row for row in alike for name in [_name_of(row, trials, names)] if name}
    return done, [row for row in stored if row not in done.values()]


def _name_of(row: Mapping[str, Any], trials: Sequence[Trial], names: Sequence[str]) -> str | None:
    """The name of the trial that a stored row is of, or None."""
    for name, trial in zip(names, trials):
        if all(str(row.get(column)) == str(value) for column, value in trial.row.items()):
            return name
    return None


def _groups(pairs: Sequence[tuple[str, Trial]]) -> Iterator[list[tuple[str, Trial]]]:
    """Trials whose recipes have one structure, in order of first appearance."""
    found: dict[Any, list[tuple[str, Trial]]] = {}
    for name, trial in pairs:
        # The name of a recipe is part of its structure, but not of what it computes.
        structure = jax.tree.structure(_nameless(trial.recipe))
        found.setdefault(structure, []).append((name, trial))
    yield from found.values()


def _nameless(recipe: Recipe | None) -> Recipe | None:
    if recipe is None:
        return None
    rules = tuple(dataclasses.replace(rule, name="") for rule in recipe.rules)
    return dataclasses.replace(recipe, rules=rules, name="swept", version=1)


class _Runner:
    """The compiled programs of one group of trials."""

    def __init__(
        self,
        trials: Sequence[Trial],
        make_step: Callable[[Any, Array], Step],
        batches: Batches,
        held_out: Sequence[PyTree],
        mesh: Mesh | None,
    ):
        self.batches, self.mesh = batches, mesh
        self.held_out = jax.tree.map(lambda *leaves: np.stack(leaves), *held_out)
        leaves = [jax.tree.leaves(_nameless(trial.recipe)) for trial in trials]
        structure = jax.tree.structure(_nameless(trials[0].recipe))
        # Numbers that all trials share stay Python numbers, and XLA specializes on them.
        self.varying = [i for i, values in enumerate(zip(*leaves)) if len(set(values)) > 1]

        def step(numbers: Sequence[Array], rate: Array) -> Step:
            values = list(leaves[0])
            for i, number in zip(self.varying, numbers):
                values[i] = number
            return make_step(jax.tree.unflatten(structure, values), rate)

        def init(numbers: Any, rate: Array, seed: Array) -> State:
            return step(numbers, rate).init(jax.random.key(seed), batches[0])

        def train(numbers: Any, rate: Array, state: State, stacked: PyTree, n: Array) -> Any:
            return chunk_of(step(numbers, rate))(state, stacked, n)

        def evaluate(numbers: Any, rate: Array, state: State, stacked: PyTree) -> Array:
            now = step(numbers, rate)
            keys = jax.random.split(jax.random.key(0), len(held_out))
            return jax.lax.map(lambda args: now.evaluate(state, *args), (stacked, keys))

        self.init = jax.jit(jax.vmap(init))
        self.train = jax.jit(jax.vmap(train, (0, 0, 0, None, None)), donate_argnums=2)
        self.evaluate = jax.jit(jax.vmap(evaluate, (0, 0, 0, None)))

    def in_turn(
        self,
        group: Sequence[tuple[str, Trial]],
        at_once: int | None,
        steps: int,
        chunk: int,
        display: Progress,
    ) -> Iterator[dict[str, Any]]:
        """Trains all trials, so many at once, and gives the rows of those that are done."""
        size = min(at_once or len(group), len(group))
        for begin in range(0, len(group), size):
            names, trials = zip(*group[begin : begin + size])
            yield dict(zip(names, self.run(trials, size, steps, chunk, display)))

    def run(
        self, trials: Sequence[Trial], size: int, steps: int, chunk: int, display: Progress
    ) -> list[dict[str, Any]]:
        """Trains up to `size` trials together; fewer are filled up, for the same program."""
        began = time.perf_counter()
        filled = [*trials, *[trials[-1]] * (size - len(trials))]
        leaves = [jax.tree.leaves(_nameless(trial.recipe)) for trial in filled]
        numbers = [self._spread(np.asarray([ls[i] for ls in leaves])) for i in self.varying]
        rates = self._spread(np.asarray([trial.rate for trial in filled], np.float32))
        seeds = self._spread(np.asarray([trial.seed for trial in filled], np.int32))
        state = self.init(numbers, rates, seeds)
        losses = np.zeros((size, 0), np.float32)
        for start in range(0, steps, chunk):
            stop = min(start + chunk, steps)
            parts = [self.batches[t] for t in range(start, stop)]
            parts += parts[-1:] * (chunk - len(parts))
            stacked = jax.tree.map(lambda *ls: np.stack(ls), *parts)
            state, rows = self.train(numbers, rates, state, stacked, jnp.int32(stop - start))
            losses = np.concatenate([losses, np.asarray(rows["loss"])[:, : stop - start]], axis=1)
            speed = stop * size / (time.perf_counter() - began)
            display.update(stop, float(np.nanmedian(losses[:, -1])), speed)
        final = np.asarray(self.evaluate(numbers, rates, state, self.held_out))
        seconds = (time.perf_counter() - began) / len(trials)
        return [_row(t, losses[i], final[i], seconds) for i, t in enumerate(trials)]

    def _spread(self, values: np.ndarray) -> Any:
        if self.mesh is None:
            return values
        return jax.device_put(
            values, NamedSharding(self.mesh, PartitionSpec(*self.mesh.axis_names))
        )


def _row(trial: Trial, losses: np.ndarray, final: np.ndarray, seconds: float) -> dict[str, Any]:
    bad = np.flatnonzero(~np.isfinite(losses))
    failed = f"diverged at step {bad[0] + 1}" if len(bad) else ""
    if not failed and not np.isfinite(final).all():
        failed = f"diverged at step {len(losses)}"
    error = standard_error(final)
    return {
        **trial.row,
        "status": failed or "ok",
        "loss": "" if failed else float(np.mean(final, dtype=np.float64)),
        "loss_se": "" if failed or math.isnan(error) else error,
        "final": not failed,
        "steps": len(losses),
        "seconds": round(seconds, 3),
        **versions(),
    }
