"""All that a training run carries from step to step, as one pytree. No behavior lives here."""

import dataclasses
from typing import Any

import jax
import numpy as np

from qjax._typing import Array, Key, PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """A training run between two steps.

    Attributes:
      step: Number of steps taken, int32 scalar.
      params: The parameters that the optimizer changes (masters, where computing is narrower).
      opt_state: The optimizer's state.
      key: The run's key; step `t` draws from `fold_in(key, t)`, so a resumed run draws the same.
      variables: The model's other variables: batch statistics, quantizer state.
      loss_scale: State of a dynamic loss scale, or None.
      average: Exponential moving average of the parameters, or None.
      schedule: State of a precision schedule, or None.
    """

    step: Array
    params: PyTree
    opt_state: PyTree
    key: Key
    variables: PyTree
    loss_scale: Any = None
    average: PyTree = None
    schedule: Any = None

    def replace(self, **changes: Any) -> "State":
        """Returns a state with some fields changed."""
        return dataclasses.replace(self, **changes)


def count_parameters(params: PyTree, *, without: tuple[str, ...] = ()) -> int:
    """Number of parameters whose path holds none of the words in `without`.

    With `without=("embed", "lm_head")` this is the non-embedding count that scaling laws use.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return sum(
        int(np.size(leaf))
        for path, leaf in leaves
        if not any(word in jax.tree_util.keystr(path) for word in without)
    )
