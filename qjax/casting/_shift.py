"""A power-of-two scale as the short way reads it.

Made once for each tile, and in memory before the elements are rounded, one number costs a load;
made again for each vector of elements, what a tile shares costs a quarter of the kernel.
"""

import dataclasses

import jax
import jax.numpy as jnp

from qjax._typing import Array
from qjax.formats import NAN, STEP, Grid, select


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Shift:
    """What stands between a tile and a grid.

    Attributes:
      steps: int32 exponents of scales as differences of float32 patterns, one per tile or element;
        `formats.NAN`, which is no such difference, where the scale is NaN.
      marked: Whether a scale may be NaN.
      bounded: Whether no element is 2**128 or more in units of its scale, and the scale is NaN
        where an element is.
      deep: Whether float32 itself may end above the last digit of the grid.
    """

    steps: Array
    marked: bool = dataclasses.field(default=False, metadata={"static": True})
    bounded: bool = dataclasses.field(default=False, metadata={"static": True})
    deep: bool = dataclasses.field(default=True, metadata={"static": True})

    @property
    def bottom(self) -> Array:
        """Patterns of float32's smallest normal number in units of the scales.

        Of a scale above one it is that number itself, which then is as good as zero.
        """
        return jnp.maximum(STEP - self.steps, STEP)


def shift_of(
    grid: Grid,
    exponent: Array,
    invalid: Array | None = None,
    *,
    bounded: bool = False,
    least: int | None = None,
) -> Shift:
    """Returns the shift of `grid` by `2**exponent`, which is NaN where `invalid`.

    `least` is an exponent that none is below; `bounded` is told, as said at `Shift`.
    """
    steps, deep = exponent * STEP, True
    if least is not None:
        deep = ((grid.mantissa_bits - 22 - least) << 23) > grid.lowest
    if invalid is not None:
        steps = select(invalid, NAN, steps)
    return Shift(steps, invalid is not None, bounded, deep)
