"""Precision that changes during a run: step (and what the run has seen) -> recipe.

The recipes of a schedule differ in numbers alone (bits, biases), so the number is chosen on
the device and one compiled program serves all of them. Recipes that need different programs
(other tiles, other roundings) go into `Phases`, which the loop compiles one by one.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from qjax._typing import Array
from qjax.recipes import Recipe


class Schedule(abc.ABC):
    """A pure map from the step and the schedule's own state to a recipe."""

    def init(self) -> Any:
        """Returns the state before the first step; it is part of the run's state."""
        return None

    @abc.abstractmethod
    def recipe(self, step: Array, state: Any) -> Recipe:
        """Returns the recipe of the step after `step` steps; its numbers may be traced."""

    def update(self, state: Any, metrics: Mapping[str, Array]) -> Any:
        """Returns the next state, given the metrics of the step just taken."""
        del metrics
        return state


@dataclasses.dataclass(frozen=True)
class Piecewise(Schedule):
    """Changes recipe at given steps.

    Serves the precision boost of the last epochs (Harma et al. 2022, "Accuracy Booster") and
    cold starts (wide bits first).

    Attributes:
      recipes: K recipes (or policies, in a task whose `quantize` takes them), of one structure.
      boundaries: K - 1 increasing steps; `recipes[k]` holds from step `boundaries[k - 1]` on.
    """

    recipes: tuple[Any, ...]
    boundaries: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "recipes", tuple(self.recipes))
        object.__setattr__(self, "boundaries", tuple(self.boundaries))
        _check_boundaries(self.recipes, self.boundaries)
        check_alike(self.recipes)

    def recipe(self, step: Array, state: Any) -> Any:
        del state
        index = jnp.searchsorted(jnp.asarray(self.boundaries, jnp.int32), step, side="right")
        return choose(self.recipes, index)


@dataclasses.dataclass(frozen=True)
class Computed(Schedule):
    """A recipe computed from the step by any pure function.

    Attributes:
      function: Maps the step (int32 scalar) to a recipe whose numbers may depend on it.
    """

    function: Callable[[Array], Any]

    def recipe(self, step: Array, state: Any) -> Any:
        del state
        return self.function(step)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PlateauState:
    """Where a plateau schedule is.

    Attributes:
      level: Index of the recipe in use, int32.
      loss: Moving average of the loss, float32; infinite before the first step.
      best: Lowest such average since the level began, float32.
      stale: Steps since the average last fell by the threshold, int32.
    """

    level: Array
    loss: Array
    best: Array
    stale: Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plateau(Schedule):
    """Moves to the next recipe when the loss stops falling.

    The progressive schedule of FracTrain (Fu et al. 2020, section 3.1) in this form: precision
    goes up when the moving average of the training loss has not fallen by `threshold` of
    itself within `patience` steps.

    Attributes:
      recipes: From the first to the last level, of one structure.
      patience: Steps without enough progress before the next level.
      threshold: Smallest relative fall of the average that counts as progress.
      smoothing: Decay of the moving average, in [0, 1).
    """

    recipes: tuple[Any, ...]
    patience: int
    threshold: float = 1e-3
    smoothing: float = 0.9

    def __post_init__(self) -> None:
        object.__setattr__(self, "recipes", tuple(self.recipes))
        if self.patience < 1:
            raise ValueError(f"`patience` must be at least 1, but is {self.patience}. Give steps.")
        check_alike(self.recipes)

    def init(self) -> PlateauState:
        infinite = jnp.float32(jnp.inf)
        return PlateauState(jnp.int32(0), infinite, jnp.float32(jnp.inf), jnp.int32(0))

    def recipe(self, step: Array, state: PlateauState) -> Any:
        del step
        return choose(self.recipes, state.level)

    def update(self, state: PlateauState, metrics: Mapping[str, Array]) -> PlateauState:
        new = metrics["loss"]
        mixed = self.smoothing * state.loss + (1 - self.smoothing) * new
        loss = jnp.where(jnp.isfinite(state.loss), mixed, new)
        progress = loss < state.best * (1 - self.threshold)
        stale = jnp.where(progress, 0, state.stale + 1)
        up = (stale >= self.patience) & (state.level < len(self.recipes) - 1)
        best = jnp.where(progress, loss, state.best)
        return PlateauState(
            level=state.level + up.astype(jnp.int32),
            loss=loss,
            best=jnp.where(up, loss, best),
            stale=jnp.where(up, 0, stale),
        )


@dataclasses.dataclass(frozen=True)
class Phases:
    """Recipes that need different programs, one after the other: one compilation each.

    The loop announces each change. A switch from NVFP4 to BF16 near the end of a run is of this
    kind (NVIDIA 2025, "Pretraining Large Language Models with NVFP4", section on switching).

    Attributes:
      recipes: K recipes; None computes as the model is.
      boundaries: K - 1 increasing steps; `recipes[k]` holds from step `boundaries[k - 1]` on.
    """

    recipes: tuple[Any, ...]
    boundaries: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "recipes", tuple(self.recipes))
        object.__setattr__(self, "boundaries", tuple(self.boundaries))
        _check_boundaries(self.recipes, self.boundaries)

    def phase(self, step: int) -> int:
        """Index of the recipe that holds after `step` steps."""
        return sum(step >= boundary for boundary in self.boundaries)

    def end(self, step: int) -> int | None:
        """The step at which the phase of `step` ends; None for the last."""
        later = [boundary for boundary in self.boundaries if boundary > step]
        return later[0] if later else None


def choose(recipes: Sequence[Any], index: Array) -> Any:
    """Returns `recipes[index]` for a traced index; numbers that all share stay as they are.

    Args:
      recipes: Pytrees of one structure whose leaves are numbers.
      index: int32 scalar.
    """

    def pick(*numbers: Any) -> Any:
        if all(type(n) is type(numbers[0]) and n == numbers[0] for n in numbers[1:]):
            return numbers[0]
        return jnp.stack([jnp.asarray(n) for n in numbers])[index]

    return jax.tree.map(pick, *recipes)


def check_alike(recipes: Sequence[Any]) -> None:
    """Checks that recipes differ in numbers alone.

    Raises:
      ValueError: If there are none, or one has another structure; both are shown.
    """
    if not recipes:
        raise ValueError("A schedule needs at least one recipe, but `recipes` is empty.")
    first = jax.tree.structure(recipes[0])
    for i, recipe in enumerate(recipes[1:], 1):
        if jax.tree.structure(recipe) != first:
            raise ValueError(
                f"The recipes of a schedule may differ in numbers alone, but recipe {i} has "
                "another structure than recipe 0 (another tile, rounding, family of formats or "
                "other rules). Give them one structure, or use `Phases`, which compiles each.\n"
                f"  recipe 0: {recipes[0]!r}\n  recipe {i}: {recipe!r}"
            )


def _check_boundaries(recipes: Sequence[Any], boundaries: Sequence[int]) -> None:
    if len(boundaries) != len(recipes) - 1 or list(boundaries) != sorted(set(boundaries)):
        raise ValueError(
            f"{len(recipes)} recipes need {len(recipes) - 1} increasing boundaries, but "
            f"`boundaries` is {tuple(boundaries)}. Give the step at which each later one begins."
        )
