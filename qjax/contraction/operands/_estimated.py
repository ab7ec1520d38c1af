"""A quantizer as a forward operand with a chosen derivative, and maps before quantization."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from qjax import gradients, tiling
from qjax._typing import Array, Axes, Key, PyTree
from qjax.contraction.operands._base import Operand
from qjax.qtypes import QType
from qjax.quantizer import Quantizer


class _Around(Operand):
    """An operand of the type and noise of what it holds."""

    @property
    @abc.abstractmethod
    def _held(self) -> Any: ...

    @property
    def qtype(self) -> QType:
        return self._held.qtype

    @property
    def stochastic(self) -> bool:
        return self._held.stochastic


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Estimated(_Around):
    """A quantizer whose values replace the operand in all legs, with a chosen derivative.

    A quantizer alone in `Policy.fwd` rounds for the forward leg only: the other legs start from
    the values before it. Its calibration may keep a state.

    Attributes:
      quantizer: The quantizer.
      estimator: Maps (x, values), the operand before and after, to `values` with a derivative
        in `x`. A function of a module, so that it can be hashed and pickled.
    """

    quantizer: Quantizer
    estimator: Callable[[Array, Array], Array] = dataclasses.field(
        default=gradients.through, kw_only=True, metadata={"static": True}
    )

    def __repr__(self) -> str:
        return f"Estimated({self.quantizer!r}, estimator={_written(self.estimator)})"

    @property
    def _held(self) -> Quantizer:
        return self.quantizer

    def state(self, x: Array, *, contract: Axes, batch: Axes) -> PyTree:
        return self.quantizer.init(x.shape, contract=contract, batch=batch)

    def apply(self, x, params, state, *, contract, batch, key) -> tuple[Array, PyTree]:
        fixed = jax.lax.stop_gradient(x)
        values, state = self.quantizer.step(fixed, state, contract=contract, batch=batch, key=key)
        kept = self.quantizer.kept(fixed, contract=contract, batch=batch)
        # What is not kept has no gradient, whatever the derivative of a cast is taken to be.
        x = x if kept is None else jnp.where(kept, x, fixed)
        return self.estimator(x, values), state


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mapped(_Around):
    """A differentiable map of the operand, and a trained operand on what it gives.

    Weight normalizations stand here, such as the hyperbolic tangent of DoReFa.

    Attributes:
      function: Maps the operand to an array of the same shape. A function of a module.
      then: What follows.
    """

    function: Callable[[Array], Array] = dataclasses.field(metadata={"static": True})
    then: Operand

    def __repr__(self) -> str:
        return f"Mapped({_written(self.function)}, {self.then!r})"

    @property
    def _held(self) -> Operand:
        return self.then

    @property
    def widths(self) -> tuple[float, float]:
        return self.then.widths

    def choice(self, x: Array, params: Any, *, contract: Axes) -> Array | None:
        return self.then.choice(self.function(x), params, contract=contract)

    @property
    def penalized(self) -> bool:
        return self.then.penalized

    def params(self, x: Array, *, contract: Axes, batch: Axes) -> dict[str, Array]:
        return self.then.params(self.function(x), contract=contract, batch=batch)

    def state(self, x: Array, *, contract: Axes, batch: Axes) -> PyTree:
        return self.then.state(x, contract=contract, batch=batch)

    def apply(
        self, x: Array, params: Any, state: Any, *, contract: Axes, batch: Axes, key: Key | None
    ) -> tuple[Array, PyTree]:
        where = {"contract": contract, "batch": batch, "key": key}
        return self.then.apply(self.function(x), params, state, **where)

    def grid(self, x: Array, params: Any, *, contract: Axes, batch: Axes) -> Array | None:
        return self.then.grid(self.function(x), params, contract=contract, batch=batch)

    def penalty(self, x: Array, params: Any, *, contract: Axes, batch: Axes) -> Array | None:
        return self.then.penalty(self.function(x), params, contract=contract, batch=batch)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ScaleGradient(_Around):
    """A quantizer whose gradient also reaches the largest element of a tile, through its scale.

    With scales proportional to the largest magnitude `a` of a tile, and roundings taken as the
    identity, the gradient of a tile is `g`, plus `sum(g * (values - x)) / a` with the sign of the
    largest element at that element (elements that tie share it). Straight-through estimation
    leaves the second term out.

    Attributes:
      quantizer: The quantizer; its calibration is the largest magnitude.

    References:
      Derived; Hu et al. 2025, arXiv:2509.17791, compares such gradients for FP4.
    """

    quantizer: Quantizer

    @property
    def _held(self) -> Quantizer:
        return self.quantizer

    def apply(self, x, params, state, *, contract, batch, key) -> tuple[Array, PyTree]:
        fixed = jax.lax.stop_gradient(x)
        values = self.quantizer.cast(fixed, contract=contract, batch=batch, key=key)
        layout = tiling.resolve(x.shape, self.qtype.tile, contract, batch)
        top = jnp.max(jnp.abs(layout.split(x)), axis=layout.axes, keepdims=True)
        wide = layout.spread(layout.gather(top))
        size = jax.lax.stop_gradient(wide)
        residual = (values - fixed) / jnp.where(size > 0, size, 1)
        # The last term is zero; its gradient is that of the scale.
        return gradients.through(x, values) + residual * (wide - size), state


def _written(function: Callable[..., Any]) -> str:
    """A function as code names it that imports rooms of qjax: `gradients.squash`.

    What has no name in its module keeps its own repr.
    """
    if not hasattr(function, "__qualname__"):
        return repr(function)
    path = f"{function.__module__}.{function.__qualname__}".removeprefix("qjax.").split(".")
    return ".".join(part for part in path if not part.startswith("_"))
