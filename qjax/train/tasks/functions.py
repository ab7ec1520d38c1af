"""The task of a plain JAX function of its parameters: no module library at all."""

import dataclasses
from collections.abc import Callable
from typing import Any

from qjax._typing import Key, PyTree
from qjax.train.tasks.base import Mode, Outcome, Quantize, Task, outcome, quantized


@dataclasses.dataclass(frozen=True, kw_only=True)
class FunctionTask(Task):
    """Trains a function `loss_fn(params, batch, key) -> loss`.

    Attributes:
      loss_fn: Returns a scalar, or a scalar and a dict of metrics.
      init_fn: Maps a key to the parameters.
      quantize: `qjax.quantize`, for steps whose recipe changes or is swept.
    """

    loss_fn: Callable[[PyTree, PyTree, Key], Any]
    init_fn: Callable[[Key], PyTree]
    quantize: Quantize | None = None

    def init(self, key: Key, batch: PyTree) -> tuple[PyTree, PyTree]:
        del batch
        return self.init_fn(key), {}

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
        del mode  # A plain function has one behavior.
        function = quantized(self.loss_fn, self.quantize, recipe)
        return outcome(function(params, batch, key), variables)
