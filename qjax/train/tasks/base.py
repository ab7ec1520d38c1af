"""The interface between a model and the training loop: how to start it, and its loss on one batch.

A task is pure and holds no arrays of its own. It is not where a model is quantized: a model
arrives quantized, or the task is given `qjax.quantize` to apply the recipe of each step.
"""

import abc
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from qjax._typing import Array, Key, PyTree
from qjax.contraction.variables import PENALTIES

Mode: TypeAlias = Literal["train", "evaluate"]
Quantize: TypeAlias = Callable[..., Any]


class Outcome(NamedTuple):
    """What one forward pass gives.

    Attributes:
      loss: Scalar, float32; in nats for `cross_entropy`.
      metrics: Scalars by name, reported beside the loss.
      variables: The model's other variables (batch statistics, quantizer state) after the pass.
    """

    loss: Array
    metrics: dict[str, Array]
    variables: PyTree


class Task(abc.ABC):
    """A model and its loss, as two pure functions."""

    @abc.abstractmethod
    def init(self, key: Key, batch: PyTree, recipe: Any = None) -> tuple[PyTree, PyTree]:
        """Returns fresh parameters and other variables.

        What operands of `recipe` learn is among the parameters, what they remember among the
        others. `batch` gives shapes and dtypes, and first values to operands that ask for data.
        """

    @abc.abstractmethod
    def loss(
        self,
        params: PyTree,
        variables: PyTree,
        batch: PyTree,
        *,
        key: Key,
        recipe: Any = None,
        mode: Mode = "train",
    ) -> Outcome:
        """Returns the loss of one batch, under `recipe` when one is given."""


def quantized(model: Any, quantize: Quantize | None, recipe: Any, **options: Any) -> Any:
    """Returns `model` under `recipe`, or `model` itself when there is none.

    Args:
      model: A module or function.
      quantize: `qjax.quantize`.
      recipe: What it applies.
      **options: Passed on to it.

    Raises:
      ValueError: If there is a recipe and no `quantize` to apply it with.
    """
    if recipe is None:
        return model
    check_applicable(quantize, recipe)
    assert quantize is not None
    return quantize(model, recipe, **options)


def check_applicable(quantize: Quantize | None, recipe: Any) -> None:
    """Checks that a task can apply the recipe of a step.

    Raises:
      ValueError: If there is a recipe and no `quantize` to apply it with.
    """
    if recipe is not None and quantize is None:
        raise ValueError(
            "A step with a `recipe` or schedule applies it to the task's model at every step, but "
            "this task has no `quantize`. Build the task with `quantize=qjax.quantize`, or "
            "quantize the model beforehand and leave the step's `recipe` out."
        )


def outcome(value: Any, variables: PyTree) -> Outcome:
    """Reads what a user's loss returned: a scalar, or a scalar and a dict of metrics.

    Raises:
      TypeError: If it is neither.
    """
    loss, metrics = value if isinstance(value, tuple) else (value, {})
    if jnp.shape(loss) != ():
        raise TypeError(
            f"The loss must be a scalar (or a scalar and a dict of metrics), but its shape is "
            f"{jnp.shape(loss)}. Take the mean over the batch."
        )
    return Outcome(jnp.asarray(loss, jnp.float32), dict(metrics), variables)


def with_penalties(result: Outcome, variables: PyTree) -> Outcome:
    """Adds what the operands of a quantized model put on the loss; metric `penalty`."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    terms = [leaf for path, leaf in leaves if any(_name(key) == PENALTIES for key in path)]
    if not terms:
        return result
    penalty = sum((term.astype(jnp.float32) for term in terms), jnp.float32(0))
    metrics = {**result.metrics, "penalty": penalty}
    return result._replace(loss=result.loss + penalty, metrics=metrics)


def _name(key: Any) -> Any:
    return getattr(key, "key", None)


def joined(first: Any, second: Any) -> Any:
    """The entries of two nested dictionaries; those of `first` where both have one."""
    if not (isinstance(first, Mapping) and isinstance(second, Mapping)):
        return first
    both = {name: joined(value, second[name]) for name, value in first.items() if name in second}
    return {**second, **first, **both}


def cross_entropy(logits: Array, batch: dict[str, Array]) -> Array:
    """Mean cross-entropy of next-token (or class) predictions.

    Args:
      logits: [..., V] unnormalized log-probabilities; the arithmetic is done in float32.
      batch: Holds `targets`, [...] integers in [0, V).

    Returns:
      Scalar float32, nats per target.
    """
    logits = logits.astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"]).mean()


def streams(key: Key, names: tuple[str, ...]) -> dict[str, Key]:
    """Keys for a model's named random streams: the first gets `key`, the others folds of it."""
    return {name: key if i == 0 else jax.random.fold_in(key, i) for i, name in enumerate(names)}
