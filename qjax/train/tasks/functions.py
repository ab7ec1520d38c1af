"""The task of a plain JAX function of its parameters: no module library at all."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from qjax._typing import Key, PyTree
from qjax.train.tasks.base import Mode, Outcome, Quantize, Task, outcome, quantized, with_penalties

_NOISE = 1  # What the key is folded with for roundings; the function has the key itself.


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Extended:
    """Parameters of a function whose quantized operands learn.

    Attributes:
      own: The function's parameters.
      quant: What operands learn, by place and name.
    """

    own: PyTree
    quant: PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class FunctionTask(Task):
    """Trains a function `loss_fn(params, batch, key) -> loss`.

    The function may be quantized: beforehand, by `qjax.quantize(loss_fn, recipe, weights=0)`,
    or by the step. Where its operands learn, the trained parameters are `Extended`; what they
    remember is carried from step to step, by collection as in a linen module.

    Attributes:
      loss_fn: Returns a scalar, or a scalar and a dict of metrics.
      init_fn: Maps a key to the parameters.
      quantize: `qjax.quantize`, for steps with a recipe; called with `weights=0`.
    """

    loss_fn: Callable[[PyTree, PyTree, Key], Any]
    init_fn: Callable[[Key], PyTree]
    quantize: Quantize | None = None

    def init(self, key: Key, batch: PyTree, recipe: Any = None) -> tuple[PyTree, PyTree]:
        params, function = self.init_fn(key), self._under(recipe)
        if not hasattr(function, "advance"):
            return params, {}
        noise = jax.random.fold_in(key, _NOISE)
        # Twice: some values, such as penalties, appear when the others are used.
        quant = function.init(params, batch, key, quant_key=noise)
        _, quant = function.advance(params, batch, key, quant=quant, quant_key=noise)
        learned = quant.pop("params", {})
        return Extended(params, learned) if learned else params, quant

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
        function = self._under(recipe)
        own, learned = params, {}
        if isinstance(params, Extended):
            own, learned = params.own, params.quant
        if not hasattr(function, "advance"):
            return outcome(function(own, batch, key), variables)
        quant = {**variables, "params": learned}
        noise = jax.random.fold_in(key, _NOISE)
        value, quant = function.advance(own, batch, key, quant=quant, quant_key=noise)
        held = {name: values for name, values in quant.items() if name != "params"}
        result = outcome(value, held)
        return with_penalties(result, held) if mode == "train" else result

    def _under(self, recipe: Any) -> Any:
        """The function under `recipe`; what it is trained in are its weights."""
        return quantized(self.loss_fn, self.quantize, recipe, weights=0)
