"""An operand whose samples choose their quantizer by a learned gate, and pay for the choice."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from qjax import gradients
from qjax._typing import Array, Axes, PyTree
from qjax.contraction.choosing import casts, widest
from qjax.contraction.operands._base import Operand
from qjax.formats import Format
from qjax.qtypes import QType
from qjax.quantizer import Quantizer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Gated(Operand):
    """One of several quantizers for every sample, by a learned gate that looks at the sample.

    Samples lie along the first axis, channels along the last; the others are averaged. A linear
    map of the channels gives a score for each choice, and the highest is chosen. The derivative
    of the choice is that of its softmax. A choice has a cost, and the mean cost of a batch is held
    to a target: its distance from the target, times a price, is added to the loss. The choice also
    serves the `Chosen` of the backward legs.

    Attributes:
      choices: The quantizers; all see the whole operand.
      costs: What each costs, in any unit.
      price: Factor of the penalty.
      target: Mean cost that is aimed at; 0 where less is always better.

    The state `cost` is the mean cost of the last batch.

    References:
      Fu et al. 2020, "FracTrain", arXiv:2012.13113, from the authors' code. There one gate serves
      a residual block, an LSTM hands it what blocks before have seen, and the target is for the
      mean over all blocks.
    """

    choices: tuple[Any, ...]
    costs: tuple[Any, ...]
    price: Any = 0.0
    target: Any = 0.0

    def __post_init__(self):
        if not isinstance(self.choices, list | tuple):
            return  # Rebuilt by tree utilities, with placeholders inside.
        kinds = str | QType | Format
        choices = tuple(Quantizer(q) if isinstance(q, kinds) else q for q in self.choices)
        object.__setattr__(self, "choices", choices)
        if len(choices) < 2 or len(choices) != len(self.costs):
            raise ValueError(
                f"`Gated` takes two choices or more and as many costs, but {len(choices)} and "
                f"{len(self.costs)} came. Give one cost for every choice."
            )

    @property
    def qtype(self) -> QType:
        """The widest type among the choices: which are chosen, only the inputs say."""
        return widest(self.choices)

    @property
    def widths(self) -> tuple[float, float]:
        bits = [q.qtype.bits_per_element for q in self.choices]
        return min(bits), max(bits)

    @property
    def stochastic(self) -> bool:
        return any(q.stochastic for q in self.choices)

    def params(self, x: Array, *, contract: Axes, batch: Axes) -> dict[str, Array]:
        count = len(self.choices)
        return {"kernel": jnp.zeros((x.shape[-1], count)), "bias": jnp.zeros(count)}

    def state(self, x: Array, *, contract: Axes, batch: Axes) -> PyTree:
        return {"cost": jnp.zeros((), jnp.float32)}

    def choice(self, x: Array, params: dict[str, Array], *, contract: Axes) -> Array:
        """Ones and zeros of shape (samples, choices), with the derivative of a softmax.

        Raises:
          ValueError: If the first axis, which has the samples, is summed over.
        """
        if x.ndim < 2 or 0 in {axis % x.ndim for axis in contract}:
            raise ValueError(
                "`Gated` chooses for samples along the first axis of an operand, but that of "
                f"shape {x.shape} is summed over axes {tuple(contract)}. Give it to `fwd.lhs` of "
                "layers whose first axis is the batch."
            )
        pooled = jnp.mean(x.astype(jnp.float32), axis=tuple(range(1, x.ndim - 1)))
        scores = pooled @ params["kernel"] + params["bias"]
        soft = jax.nn.softmax(scores)
        hard = jax.nn.one_hot(jnp.argmax(scores, axis=1), len(self.choices))
        return gradients.through(soft, hard)

    def apply(self, x, params, state, *, contract, batch, key) -> tuple[Array, PyTree]:
        choice = self.choice(x, params, contract=contract)
        every = jnp.broadcast_to(x, (len(self.choices), *x.shape))
        fixed = jax.lax.stop_gradient(every)
        values = casts(self.choices, fixed, key=key, contract=contract, batch=batch)
        weight = choice.T.reshape(-1, x.shape[0], *(1,) * (x.ndim - 1)).astype(x.dtype)
        mixed = jnp.sum(weight * gradients.through(every, values), axis=0)
        return mixed, {"cost": self._cost(choice)}

    def penalty(self, x, params, *, contract, batch) -> Array | None:
        cost = self._cost(self.choice(x, params, contract=contract))
        return self.price * jnp.abs(cost - self.target)

    def _cost(self, choice: Array) -> Array:
        """Mean cost of the samples."""
        return jnp.mean(choice @ jnp.stack([jnp.float32(cost) for cost in self.costs]))
