"""Windows of convolutions written out, so that a convolution is one product of two arrays.

An output position, a tap of the kernel and an input position belong together: given two of them
there is at most one of the third. Taking the elements that belong together, zero where there are
none, turns every leg of a convolution into a sum over plain axes. This takes as much memory as
all windows together; it serves emulations that multiply number by number.
"""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from qjax._typing import Array
from qjax.contraction.axes import Labelling, Labels, Leg

NONE = -1


def inputs(
    outputs: int, taps: int, size: int, *, stride: int, low: int, dilation: int, spacing: int
) -> np.ndarray:
    """Input positions `(outputs, taps)` of one axis; -1 where padding or spacing is met.

    Args:
      outputs: Number of output positions.
      taps: Length of the kernel.
      size: Number of input positions.
      stride: Stride of the window.
      low: Padding before the input.
      dilation: Distance between taps.
      spacing: Distance between input elements (`lhs_dilation`).
    """
    place = np.arange(outputs)[:, None] * stride + np.arange(taps)[None] * dilation - low
    found = (place % spacing == 0) & (place >= 0) & (place < (size - 1) * spacing + 1)
    return np.where(found, place // spacing, NONE)


def outputs(table: np.ndarray, size: int) -> np.ndarray:
    """Output positions `(size, taps)` of a table of input positions: its inverse."""
    inverse = np.full((size, table.shape[1]), NONE)
    where = np.nonzero(table != NONE)
    inverse[table[where], where[1]] = where[0]
    return inverse


def take(x: Array, axis: int, table: np.ndarray) -> Array:
    """Replaces an axis by two: `x` at the positions `(n, taps)` of a table, zero at -1."""
    # The last position holds the zeros of everything that meets no element.
    x = jnp.pad(x, [(0, int(i == axis)) for i in range(x.ndim)])
    index = np.where(table == NONE, x.shape[axis] - 1, table)
    return jnp.take(x, jnp.asarray(index, jnp.int32), axis=axis)


@dataclasses.dataclass(frozen=True)
class Roles:
    """The labels of the axes of one array of a convolution; grouped axes have two.

    Attributes:
      axes: Labels of each axis.
      groups: Size of the label "g".
    """

    axes: tuple[Labels, ...]
    groups: int

    @property
    def labels(self) -> Labels:
        """All labels in order."""
        return tuple(label for part in self.axes for label in part)

    def split(self, x: Array) -> Array:
        """`x` with an axis for each label."""
        sizes = []
        for n, part in zip(x.shape, self.axes, strict=True):
            sizes += [self.groups, n // self.groups] if len(part) == 2 else [n]
        return x.reshape(sizes)


def roles(spec: Sequence[int], batch: Labels, features: Labels, space: str, groups: int) -> Roles:
    """The labels of an array whose axes stand where `spec` says: batch, features, then space."""
    parts = [batch, features, *(((space, n),) for n in range(len(spec) - 2))]
    return Roles(tuple(parts[spec.index(axis)] for axis in range(len(spec))), groups)


def product(
    leg: Leg,
    operands: tuple[Array, Array],
    of: dict[str, Roles],
    tables: list[tuple[np.ndarray, int]],
) -> tuple[Array, Array, Labelling]:
    """The operands of a leg of a convolution with their windows taken, and their labels.

    The contracted axes are the window and the features (in `drhs` space and the images).

    Args:
      leg: The leg.
      operands: Its operands.
      of: Roles of "lhs", "rhs" and "out".
      tables: For each axis of space the input positions by output position and tap, and the
        number of input positions.
    """
    lhs, rhs, out = of["lhs"], of["rhs"], of["out"]
    first, second, result = {
        "fwd": (lhs, rhs, out),
        "dlhs": (out, rhs, lhs),
        "drhs": (lhs, out, rhs),
    }[leg]
    x, labels = first.split(operands[0]), list(first.labels)
    own, other = ("j", "i") if leg == "dlhs" else ("i", "j")
    for n, (table, size) in enumerate(tables):
        axis = labels.index((own, n))
        x = take(x, axis, outputs(table, size) if leg == "dlhs" else table)
        labels[axis : axis + 1] = [(other, n), ("k", n)]
    summed = [x for x in labels if x not in result.labels and x != "g"]
    last = sorted(summed, key=lambda label: isinstance(label, str))
    order = [label for label in labels if label not in last] + last
    x = x.transpose([labels.index(label) for label in order])
    return x, second.split(operands[1]), Labelling(tuple(order), second.labels, result.labels)
