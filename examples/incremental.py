"""Learns the ten digits class by class, in few bits, with few examples of what it knew before.

    python examples/incremental.py --recipe float32 hdqt int4:float32

Training begins with some classes; then, task by task, new ones come, of the old ones only a few
exemplars are left, and the model goes on from where it was, with a fresh optimizer. After every
task it is tested on all classes seen so far. This is where training happens on a device, and where
its precision is to be low (Schiemer et al. 2023, arXiv 2310.03675; the 100 passes over the rows of
a task and the fall of the rate at half of them are those of its code for activity recognition).
Exemplars are chosen by herding (Rebuffi et al. 2017, "iCaRL"), in pixels; replay of exemplars is
all that works against forgetting.
"""

import argparse
import itertools
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import qjax
from qjax import train

FIELDS = ("recipe", "seed", "classes", "old", "new", "all")
CLASSES = 10


class Task(NamedTuple):
    """A part of the curriculum: classes known before, and those that come."""

    old: tuple[int, ...]
    new: tuple[int, ...]


class Net(nn.Module):
    """Maps images [B, 8, 8, 1] to logits [B, 10]."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(self.width, name="layer_0")(x))
        x = nn.relu(nn.Dense(self.width, name="layer_1")(x))
        return nn.Dense(CLASSES, name="head")(x)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    names = ["float32", "hdqt", "int4:float32"]
    add(
        "--recipe",
        nargs="+",
        default=names,
        metavar="NAME",
        help=f"recipes of `qjax.recipes.names()`, or types (default: {' '.join(names)})",
    )
    add("--first", type=int, default=4, help="classes at the beginning (count; default: 4)")
    add("--increment", type=int, default=2, help="new classes per task (count; default: 2)")
    add("--exemplars", type=int, default=10, help="kept of each old class (count; default: 10)")
    add(
        "--steps",
        type=int,
        default=1800,
        help="of training per task (count; default: 1800, which are 100 passes over its rows)",
    )
    add("--width", type=int, default=64, help="features of hidden layers (count; default: 64)")
    add(
        "--rate",
        type=float,
        default=0.05,
        help="learning rate, a tenth from half of a task (default: 0.05)",
    )
    add("--seeds", type=int, default=3, help="orders of classes (count; default: 3)")
    add(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("runs/incremental.csv"),
        metavar="FILE",
        help="the table (path; default: runs/incremental.csv)",
    )
    options = parser.parse_args(arguments)
    if not 1 <= options.first < CLASSES or options.increment < 1:
        parser.error("--first must be 1 to 9 and --increment at least 1")
    if min(options.exemplars, options.steps, options.width, options.seeds) < 1:
        parser.error("--exemplars, --steps, --width and --seeds must be at least 1")
    if not options.rate > 0:
        parser.error(f"--rate must be positive, but is {options.rate}")
    return options


def curriculum(order: np.ndarray, first: int, increment: int) -> list[Task]:
    """Splits an order of classes into tasks."""
    cuts = [0, *range(first, CLASSES, increment), CLASSES]
    classes = tuple(int(c) for c in order)
    return [Task(classes[:a], classes[a:b]) for a, b in itertools.pairwise(cuts)]


def herd(images: np.ndarray, count: int) -> np.ndarray:
    """Indices of `count` images, chosen one by one so that their mean stays near that of all."""
    flat = images.reshape(len(images), -1)
    chosen: list[int] = []
    total = np.zeros(flat.shape[1])
    for n in range(1, min(count, len(flat)) + 1):
        distance = np.linalg.norm(flat.mean(0) - (total + flat) / n, axis=1)
        distance[chosen] = np.inf
        chosen.append(int(distance.argmin()))
        total += flat[chosen[-1]]
    return np.asarray(chosen)


def pool(labels: np.ndarray, images: np.ndarray, task: Task, exemplars: int) -> np.ndarray:
    """Indices to train on: all of the new classes, and exemplars of the old, as often together."""
    new = np.flatnonzero(np.isin(labels, task.new))
    old = [np.flatnonzero(labels == c) for c in task.old]
    kept = [where[herd(images[where], exemplars)] for where in old]
    if not kept:
        return new
    few = np.concatenate(kept)
    return np.concatenate([new, np.resize(few, max(len(few), len(new)))])


def loss(logits: jax.Array, batch: Any) -> jax.Array:
    """Cross-entropy over the classes seen so far."""
    seen = jnp.where(batch["seen"][:1], logits, -1e9)
    return train.cross_entropy(seen, batch)


class Learner:
    """One model in one recipe; every task runs in the same compiled program."""

    def __init__(self, recipe: Any, options: argparse.Namespace, data: train.data.Images):
        model: Any = qjax.quantize(Net(options.width), recipe)
        rate = optax.piecewise_constant_schedule(options.rate, {options.steps // 2: 0.1})
        optimizer = optax.sgd(rate, momentum=0.9)
        self._step = train.Step(
            task=train.LinenTask(model=model, loss_fn=loss), optimizer=optimizer, clip=1.0
        )
        self._steps = options.steps
        self._images, self._labels = jnp.asarray(data.images), jnp.asarray(data.labels)
        self._run = jax.jit(self._train)
        self._apply = jax.jit(
            lambda state, x: model.apply(
                {"params": state.params, **state.variables}, x, rngs={"quant": jax.random.key(0)}
            )
        )

    def init(self, key: jax.Array) -> train.State:
        """The state before the first task."""
        return self._step.init(key, self._batch(jnp.arange(32), jnp.ones(CLASSES, jnp.bool_)))

    def _batch(self, index: jax.Array, seen: jax.Array) -> dict[str, jax.Array]:
        seen = jnp.broadcast_to(seen, (index.size, CLASSES))
        return {"inputs": self._images[index], "targets": self._labels[index], "seen": seen}

    def _train(
        self, state: train.State, rows: jax.Array, count: jax.Array, seen: jax.Array, key: jax.Array
    ) -> train.State:
        def body(state: train.State, t: jax.Array) -> Any:
            place = jax.random.randint(jax.random.fold_in(key, t), (32,), 0, count)
            return self._step(state, self._batch(rows[place], seen))[0], None

        state = state.replace(opt_state=self._step.optimizer.init(state.params))
        return jax.lax.scan(body, state, jnp.arange(self._steps))[0]

    def learn(self, state: train.State, rows: np.ndarray, task: Task, key: jax.Array) -> Any:
        """Trains on the rows of a task."""
        padded = np.zeros(2 * len(self._labels), np.int32)
        padded[: len(rows)] = rows
        seen = np.isin(np.arange(CLASSES), task.old + task.new)
        return self._run(state, padded, jnp.int32(len(rows)), seen, key)

    def accuracy(
        self, state: train.State, test: train.data.Images, task: Task, of: tuple[int, ...]
    ) -> float:
        """Percent right on images of some classes, among all seen; NaN where there are none."""
        where = np.isin(test.labels, of)
        scores = np.asarray(self._apply(state, jnp.asarray(test.images)))
        unseen = ~np.isin(np.arange(CLASSES), task.old + task.new)
        scores = np.where(unseen, -np.inf, scores)[where]
        right = scores.argmax(1) == test.labels[where]
        return float(100 * right.mean()) if where.any() else float("nan")


def run(
    name: str, recipe: Any, options: argparse.Namespace, seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """All seeds of one recipe: a row per task, under the recipe's name."""
    data, test = train.data.digits()
    learner, rows = Learner(recipe, options, data), []
    for seed in seeds:
        order = np.random.default_rng(seed).permutation(CLASSES)
        state = learner.init(jax.random.key(seed))
        for n, task in enumerate(curriculum(order, options.first, options.increment)):
            index = pool(data.labels, data.images, task, options.exemplars)
            key = jax.random.fold_in(jax.random.key(seed), n)
            state = learner.learn(state, index, task, key)
            found = [
                learner.accuracy(state, test, task, of)
                for of in (task.old, task.new, task.old + task.new)
            ]
            cells = (name, seed, len(task.old + task.new), *(f"{a:.2f}" for a in found))
            rows.append(dict(zip(FIELDS, cells, strict=True)))
    return rows


def summary(rows: list[dict[str, Any]]) -> str:
    """Mean accuracy over seeds on old, new and all classes after the last task."""
    last = [row for row in rows if row["classes"] == CLASSES]
    parts = []
    for name in ("old", "new", "all"):
        values = [float(row[name]) for row in last]
        error = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else float("nan")
        parts.append(f"{name} {np.mean(values):6.2f} +- {error:.2f} %")
    return f"{rows[0]['recipe']:12} " + "   ".join(parts)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    rows: list[dict[str, Any]] = []
    for recipe in options.recipe:
        found = run(recipe, recipe, options, range(options.seeds))
        print(summary(found), flush=True)
        rows += found
    train.write_table(rows, options.out)
    print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"incremental: {error}")
