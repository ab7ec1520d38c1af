"""The task of a Flax linen module: it calls `init` and `apply`, and does not quantize."""

import dataclasses
from collections.abc import Callable, Mapping
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
    streams,
    with_penalties,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinenTask(Task):
    """Trains a linen module: `loss(model.apply(variables, batch["inputs"]), batch)`.

    Every collection other than `params` is carried from step to step (batch statistics,
    quantizer state). Each step's key is given to the random streams named in `rngs`; the
    first, `quant`, is what stochastic rounding draws from. In training, what the operands of
    a quantized model put in the collection `quant_penalties` is added to the loss.

    Attributes:
      model: A linen module; quantize it beforehand, or give `quantize`.
      loss_fn: Maps (outputs, batch) to a scalar, or to a scalar and a dict of metrics.
      inputs: Maps a batch to the positional arguments of the model.
      rngs: Names of the random streams handed to `apply`.
      train_kwargs, eval_kwargs: Keyword arguments of the model in the two modes, such as
        `{"deterministic": False}`.
      quantize: `qjax.quantize`, for steps with a recipe.
    """

    model: Any
    loss_fn: Callable[[Any, Any], Any] = cross_entropy
    inputs: Callable[[Any], tuple[Any, ...]] = lambda batch: (batch["inputs"],)
    rngs: tuple[str, ...] = ("quant", "dropout")
    train_kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    eval_kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    quantize: Quantize | None = None

    def init(self, key: Key, batch: PyTree, recipe: Any = None) -> tuple[PyTree, PyTree]:
        model = quantized(self.model, self.quantize, recipe)
        rngs = streams(key, ("params", *self.rngs))
        variables = dict(model.init(rngs, *self.inputs(batch), **self.eval_kwargs))
        return variables.pop("params", {}), variables

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
        model = quantized(self.model, self.quantize, recipe)
        training = mode == "train"
        outputs, updated = model.apply(
            {"params": params, **variables},
            *self.inputs(batch),
            rngs=streams(key, self.rngs),
            mutable=list(variables) if training else [],
            **(self.train_kwargs if training else self.eval_kwargs),
        )
        result = outcome(self.loss_fn(outputs, batch), {**variables, **updated})
        return with_penalties(result, updated)
