"""The task of a Flax nnx module: split into parameters and the rest, merged again in each step."""

import dataclasses
from collections.abc import Callable
from typing import Any

from qjax._typing import Key, PyTree
from qjax.train.tasks.base import (
    Mode,
    Outcome,
    Quantize,
    Task,
    cross_entropy,
    outcome,
    quantized,
    with_penalties,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NnxTask(Task):
    """Trains an nnx module: `loss(model(batch["inputs"]), batch)`.

    The module given is read once, when the task is initialized, and never changed. Its
    random streams (`nnx.Rngs`) and every variable other than `nnx.Param` are carried from
    step to step. `merge` gives a module back from a trained state.

    Attributes:
      model: An nnx module; quantize it beforehand, or give `quantize`.
      loss_fn: Maps (outputs, batch) to a scalar, or to a scalar and a dict of metrics.
      inputs: Maps a batch to the positional arguments of the model.
      quantize: `qjax.quantize`, for steps whose recipe changes or is swept.
    """

    model: Any
    loss_fn: Callable[[Any, Any], Any] = cross_entropy
    inputs: Callable[[Any], tuple[Any, ...]] = lambda batch: (batch["inputs"],)
    quantize: Quantize | None = None

    def init(self, key: Key, batch: PyTree) -> tuple[PyTree, PyTree]:
        del key, batch  # An nnx module is born with its parameters.
        from flax import nnx

        _, params, variables = nnx.split(self.model, nnx.Param, ...)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(variables)

    def merge(self, params: PyTree, variables: PyTree) -> Any:
        """Returns a module with these parameters and other variables."""
        from flax import nnx

        graph, like_params, like_variables = nnx.split(self.model, nnx.Param, ...)
        nnx.replace_by_pure_dict(like_params, params)
        nnx.replace_by_pure_dict(like_variables, variables)
        return nnx.merge(graph, like_params, like_variables)

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
        del key  # The module's own streams are part of `variables`.
        from flax import nnx

        model = quantized(self.merge(params, variables), self.quantize, recipe)
        model.train() if mode == "train" else model.eval()
        value = self.loss_fn(model(*self.inputs(batch)), batch)
        _, _, updated = nnx.split(model, nnx.Param, ...)
        held = nnx.to_pure_dict(updated)
        result = outcome(value, held)
        return with_penalties(result, held) if mode == "train" else result
