"""Quantizers that quantize nothing and tell what they were given.

They stand in the slots of a recipe, so that every door can be observed, also inside `jit`,
loops and maps: what is seen leaves the compiled program through `jax.debug.callback`.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from qjax import qtypes
from qjax._typing import Array, Axes, DTypeLike, Key
from qjax.contraction import Gemm, Policy
from qjax.contraction.record import here
from qjax.quantizer import Quantizer
from qjax.recipes import Recipe, Rule

Tell = Callable[..., None]


@jax.tree_util.register_static
class Observer(Quantizer):
    """Gives an operand as it is, and calls `tell` with what it saw when the program runs.

    Attributes:
      tell: Called with the place, and arrays by name, once for every execution.
      operand: What it observes: "lhs" or "rhs".
      bounds: By place, the bound of a histogram; without one none is made.
      bins: Number of bins of the histogram.
    """

    tell: Tell
    operand: str
    bounds: Mapping[str, float]
    bins: int

    def __init__(self, tell: Tell, operand: str, bounds: Mapping[str, float], bins: int):
        super().__init__(qtypes.parse("float32"))
        settings = {"tell": tell, "operand": operand, "bounds": dict(bounds), "bins": bins}
        for name, value in settings.items():
            object.__setattr__(self, name, value)

    tells_place: ClassVar[bool] = True

    # Two observers are never the same: each tells somebody else.
    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def cast(
        self,
        x: Array,
        *,
        contract: Axes = (-1,),
        batch: Axes = (),
        key: Key | None = None,
        dtype: DTypeLike | None = None,
    ) -> Array:
        """Returns `x`; the arguments are those of `Quantizer.cast`."""
        place = f"{here()}/{self.operand}".removeprefix("/")
        size = jnp.abs(jax.lax.stop_gradient(x).astype(jnp.float32))
        summed = tuple(axis % x.ndim for axis in contract)
        kept = tuple(axis for axis in range(x.ndim) if axis not in summed)
        seen = {
            "channels": jnp.max(size, axis=kept, initial=0).ravel(),
            "count": jnp.float32(x.size),
            "squares": jnp.sum(size * size),
        }
        if place in self.bounds:
            seen["histogram"] = _histogram(size, self.bounds[place], self.bins)
        jax.debug.callback(functools.partial(self.tell, place), seen)
        return x.astype(x.dtype if dtype is None else dtype)


def _histogram(size: Array, bound: float, bins: int) -> Array:
    # The bound itself belongs to the last bin.
    index = jnp.clip(jnp.floor(size * (bins / max(bound, 1e-30))), 0, bins - 1)
    return jnp.zeros(bins, jnp.int32).at[index.astype(jnp.int32).ravel()].add(1)


def observing(tell: Tell, path: str, bounds: Mapping[str, float], bins: int) -> Recipe:
    """The recipe that observes both operands of every contraction whose path matches."""
    sides = (Observer(tell, side, bounds, bins) for side in ("lhs", "rhs"))
    policy: Any = Policy(fwd=Gemm(*sides), implementation="reference")
    return Recipe((Rule(path, policy),), name="observing")
