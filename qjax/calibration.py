"""Which statistic bounds a tile, and how a power-of-two scale is drawn from it.

Every calibration has `init(shape) -> state` and `__call__(view, axes, state) -> (bound, state)`;
the stateless ones keep `()`. Rules for power-of-two scales are integer arithmetic on exponent
bits.
"""

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from qjax._typing import Array, Shape
from qjax.formats import STEP, Format, split

# Elements of one vector register of float32, on most processors at hand.
LANES = 16
RULES = ("floor", "ceil", "rceil", "even", "midmax", "topbinade", "bfp")


@dataclasses.dataclass(frozen=True)
class Calibration(abc.ABC):
    """A statistic that bounds the magnitudes of every tile."""

    def init(self, shape: Shape) -> Any:
        """Returns the state before the first call; `()` for the stateless."""
        return ()

    @abc.abstractmethod
    def __call__(self, view: Array, axes: tuple[int, ...], state: Any = ()) -> tuple[Array, Any]:
        """Returns bounds of the magnitudes over `axes` of `view`, dimensions kept, and the state.

        Bounds are int32 magnitude patterns of float32 (as `casting.split` gives them), which
        compare as integers and hold subnormals on processors that flush them.
        """


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class AbsMax(Calibration):
    """The largest magnitude of the tile. NaN counts as larger than everything."""

    def __call__(self, view: Array, axes: tuple[int, ...], state: Any = ()) -> tuple[Array, Any]:
        return largest(view, axes), state


def largest(view: Array, axes: tuple[int, ...]) -> Array:
    """Returns magnitude patterns of the largest elements over `axes`, dimensions kept."""
    _, size, _ = split(view, shallow=True)
    if not axes:
        return size
    last = view.ndim - 1
    width = view.shape[last] if view.ndim else 0
    if last in axes and width % LANES == 0 and width > LANES:
        # A processor takes maxima of whole vectors faster than within one. The barrier keeps the
        # compiler from joining both steps again.
        lanes = jnp.max(size.reshape(*view.shape[:-1], width // LANES, LANES), axis=-2)
        size = jax.lax.optimization_barrier(lanes)
    return jnp.max(size, axis=axes, keepdims=True, initial=0)


def exponent_of(bound: Array, format: Format, rule: str) -> Array:
    """Returns the exponents of power-of-two scales.

    With the bound `a` and the format's largest value `m * 2**e`, 1 <= m < 2, the exponent is
    `floor(log2(a)) - e`, one more where the fraction of `a` exceeds what `rule` says:

    - "floor" (OCP): never. "ceil": any fraction.
    - "rceil" and "topbinade": the fraction of the largest value, so that nothing saturates.
    - "midmax": half-way from the largest value to the next power of two.
    - "even": the bound, rounded to the format's mantissa, reaches the next power of two.
    - "bfp": any fraction, and one less throughout: `ceil(log2(a)) - e - 1`.

    Args:
      bound: int32 extended magnitude patterns.
      format: The format of the elements.
      rule: One of `RULES`.
    """
    limit = format.max_pattern
    fraction = limit & (STEP - 1)
    half = 0
    if rule == "even":
        # An evenly spaced grid has one digit before the fraction.
        half = STEP >> (format.grid.mantissa_bits + 1 - int(format.grid.uniform))
    carry = {
        "floor": 0,
        "ceil": STEP - 1,
        "rceil": STEP - 1 - fraction,
        "topbinade": STEP - 1 - fraction,
        "midmax": STEP - 1 - ((fraction + STEP) >> 1),
        "even": half,
        "bfp": -1,
    }[rule]
    return ((bound + carry) >> 23) - (limit >> 23)
