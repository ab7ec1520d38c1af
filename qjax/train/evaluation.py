"""The held-out loss, batch by batch, and the paired comparison of two runs. Nothing trains here."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from qjax._typing import Array, PyTree
from qjax.train.schedules import Phases
from qjax.train.state import State
from qjax.train.step import Step


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Losses on held-out batches after some step.

    Attributes:
      step: Steps taken before it.
      losses: [K] float32, one mean loss per batch, in the loss's unit.
    """

    step: int
    losses: np.ndarray

    @property
    def loss(self) -> float:
        """The mean over batches."""
        return float(np.mean(self.losses, dtype=np.float64))

    @property
    def standard_error(self) -> float:
        """Standard error of `loss` over batches; NaN for a single batch."""
        return standard_error(self.losses)


def make_evaluator(step: Step, batches: Sequence[PyTree]) -> Callable[[State], Evaluation]:
    """Returns a function from a state to its losses on `batches`, compiled once (per phase).

    Raises:
      ValueError: If there are no batches.
    """
    if not len(batches):
        raise ValueError("An evaluation needs at least one batch, but `batches` is empty.")
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *batches)

    @functools.partial(jax.jit, static_argnums=0)
    def losses(phase: int, state: State, stacked: PyTree) -> Array:
        now = step.in_phase(phase)

        def one(args: tuple[Array, PyTree]) -> Array:
            index, batch = args
            # The same noise at every evaluation and in every run, so that differences are paired.
            return now.evaluate(state, batch, jax.random.fold_in(jax.random.key(0), index))

        return jax.lax.map(one, (jnp.arange(len(batches)), stacked))

    def evaluate(state: State) -> Evaluation:
        taken = int(state.step)
        phase = step.recipe.phase(taken) if isinstance(step.recipe, Phases) else 0
        return Evaluation(taken, np.asarray(losses(phase, state, stacked)))

    return evaluate


def standard_error(values: np.ndarray) -> float:
    """Standard error of the mean of `values`; NaN where there are fewer than two."""
    values = np.asarray(values, np.float64)
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def gap(of: Evaluation, to: Evaluation) -> tuple[float, float]:
    """Difference of two held-out losses on the same batches, and its paired standard error.

    Raises:
      ValueError: If the two were not measured on the same number of batches.
    """
    if of.losses.shape != to.losses.shape:
        raise ValueError(
            f"A paired gap needs the same batches, but `of` has {len(of.losses)} and `to` has "
            f"{len(to.losses)}. Evaluate both on the same list."
        )
    differences = of.losses.astype(np.float64) - to.losses.astype(np.float64)
    return float(differences.mean()), standard_error(differences)
