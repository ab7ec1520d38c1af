"""The task of a Flax nnx module: split into parameters and the rest, merged again in each step."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from qjax._typing import Key, PyTree
from qjax.train.tasks.base import (
    Mode,
    Outcome,
    Quantize,
    Task,
    cross_entropy,
    joined,
    outcome,
    quantized,
    with_penalties,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NnxTask(Task):
    """Trains an nnx module: `loss(model(batch["inputs"]), batch)`.

    The module given is read and never changed. Its
    random streams (`nnx.Rngs`) and every variable other than `nnx.Param` are carried from
    step to step. `merge` gives a module back from a trained state.

    Attributes:
      model: An nnx module; quantize it beforehand, or give `quantize`.
      loss_fn: Maps (outputs, batch) to a scalar, or to a scalar and a dict of metrics.
      inputs: Maps a batch to the positional arguments of the model.
      quantize: `qjax.quantize`, for steps with a recipe; called with `rngs=` and `example=`.
    """

    model: Any
    loss_fn: Callable[[Any, Any], Any] = cross_entropy
    inputs: Callable[[Any], tuple[Any, ...]] = lambda batch: (batch["inputs"],)
    quantize: Quantize | None = None

    def init(self, key: Key, batch: PyTree, recipe: Any = None) -> tuple[PyTree, PyTree]:
        from flax import nnx

        # An nnx module is born with its parameters; the key is for streams of noise alone.
        _, params, variables = nnx.split(self._under(recipe, batch, key), nnx.Param, ...)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(variables)

    def merge(
        self, params: PyTree, variables: PyTree, *, recipe: Any = None, batch: PyTree = None
    ) -> Any:
        """Returns a module with these parameters and other variables.

        Args:
          params: Parameters of a state.
          variables: Its other variables.
          recipe: What the module computes in, where the recipe is the step's own.
          batch: An example, where operands of that recipe learn or remember.
        """
        from flax import nnx

        module = self._under(recipe, batch, jax.random.key(0))
        graph, *states = nnx.split(module, nnx.Param, ...)
        for state, values in zip(states, (params, variables), strict=True):
            nnx.replace_by_pure_dict(state, _chosen(values, nnx.to_pure_dict(state)))
        return nnx.merge(graph, *states)

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

        model = self.merge(params, variables, recipe=recipe, batch=batch)
        model.train() if mode == "train" else model.eval()
        value = self.loss_fn(model(*self.inputs(batch)), batch)
        _, _, updated = nnx.split(model, nnx.Param, ...)
        held = joined(nnx.to_pure_dict(updated), variables)
        result = outcome(value, held)
        return with_penalties(result, held) if mode == "train" else result

    def _under(self, recipe: Any, batch: PyTree, key: Key) -> Any:
        """The module under `recipe`, with values as they are before the first step."""
        if recipe is None:
            return self.model
        example = None if batch is None else self.inputs(batch)
        return quantized(self.model, self.quantize, recipe, rngs=key, example=example)


def _chosen(values: Mapping[Any, Any], like: Mapping[Any, Any]) -> dict[Any, Any]:
    """The entries of `values` that stand in `like` too: a phase of a run may need fewer."""
    return {
        name: _chosen(values[name], own) if isinstance(own, Mapping) else values[name]
        for name, own in like.items()
    }
