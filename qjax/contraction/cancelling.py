"""A transform at the two operands of one product: along its contracted axes, and in its gradients.

The axes are flattened in the order of the first operand's. No operation is known by name: `axes`
says which ones are contracted, `transforms` what is done along them.
"""

import dataclasses
import math
from typing import Any

import jax

from qjax import tiling
from qjax._typing import Array, DTypeLike
from qjax.contraction.axes import Paired
from qjax.contraction.transforms import Transform


@dataclasses.dataclass(frozen=True)
class Cancelling:
    """A transform, bound to the axes of a product and to what it measured in the operands.

    Attributes:
      transform: The transform.
      axes: Where it acts in both operands.
      measured: What both maps depend on.
    """

    transform: Transform
    axes: Paired
    measured: Any

    def first(self, x: Array) -> Array:
        """The map of the first operand, in its own shape."""
        return self.mapped(0, x, 0)

    def second(self, x: Array) -> Array:
        """The map of the second operand, in its own shape."""
        return self.mapped(1, x, 1)

    def both(self, lhs: Array, rhs: Array, done: tuple[bool, bool]) -> tuple[Array, Array]:
        """Both operands; those that are `done` were mapped before they were stored."""
        return lhs if done[0] else self.first(lhs), rhs if done[1] else self.second(rhs)

    def lowered(self, side: int, gradient: Array) -> Array:
        """The gradient of an operand (0 or 1), from that of its transform."""
        (result,) = jax.linear_transpose(lambda x: self.mapped(side, x, side), gradient)(gradient)
        return result

    def lifted(self, side: int, gradient: Array) -> Array:
        """The gradient of the transform of an operand, from that of the operand."""
        # The gradient of one operand goes the way of the other operand.
        return self.mapped(side, gradient, 1 - side)

    def mapped(self, side: int, x: Array, way: int) -> Array:
        """The map of the first (0) or second (1) operand, as `way` says, on the axes of `side`."""
        axes, groups = _of(self.axes, side)
        return along(
            axes, groups, x, lambda v, axis: self.transform.mapped(way, v, self.measured, axis)
        )


def held(x: Array, dtype: DTypeLike) -> Array:
    """An operand in the dtype that it is transformed in, which no compiler sees through.

    Of an operand that is a constant of the program, such as weights that a function closes over,
    XLA's CPU would compute the transform and the cast after it while compiling, and gets some of
    these wrong by far (jax 0.10.2; without its pass `constant_folding` they are right, and why was
    not found). Behind a barrier nothing is folded.
    """
    return jax.lax.optimization_barrier(x.astype(dtype))


def bind(transform: Transform, axes: Paired, lhs: Array, rhs: Array) -> Cancelling:
    """A transform for the two operands of one product; what it measures has no derivative."""
    parts = (
        _front(axes.lhs, axes.lhs_groups, jax.lax.stop_gradient(lhs)),
        _front(axes.rhs, axes.rhs_groups, jax.lax.stop_gradient(rhs)),
    )
    return Cancelling(transform, axes, transform.measure(*parts))


def baked(transform: Transform, axes: Paired, side: int, x: Array) -> Array:
    """The map of one operand (0 or 1) without the other, of a transform that has a basis."""
    return _alone(transform, axes, side, x).mapped(side, x, side)


def unbaked(transform: Transform, axes: Paired, side: int, x: Array) -> Array:
    """The operand that `baked` made `x` of, rounding apart."""
    bound = _alone(transform, axes, side, x)
    # What cancels a map is the transpose of the other operand's.
    (result,) = jax.linear_transpose(lambda v: bound.mapped(side, v, 1 - side), x)(x)
    return result


def _alone(transform: Transform, axes: Paired, side: int, x: Array) -> Cancelling:
    # Only how many channels there are is looked at, which both operands know.
    part = _front(*_of(axes, side), x)
    return Cancelling(transform, axes, transform.measure(part, part))


def _of(axes: Paired, side: int) -> tuple[tuple[int, ...], int]:
    """The axes of one operand, and how many groups they hold."""
    return ((axes.lhs, axes.lhs_groups), (axes.rhs, axes.rhs_groups))[side]


def along(axes: tuple[int, ...], groups: int, x: Array, function: Any) -> Array:
    """Applies a function of one axis along `axes`, flattened in their order.

    Args:
      axes: Axes of `x`.
      groups: Parts of the flattened axis that are mapped each on their own.
      x: Array.
      function: `(array, axis) -> array`; it keeps shapes.

    Raises:
      ValueError: If an explicit mesh splits an axis, other than the first, that is flattened.
    """
    start, stop = (axes[0], axes[0] + len(axes)) if axes else (0, 0)
    if axes and axes == tuple(range(start, stop)):
        # Neighbours are flattened where they lie: to turn them would copy twice.
        tiling.check_flattened(x, axes, "Values of a transform")
        n = math.prod(x.shape[start:stop])
        each = [groups, n // groups] if groups > 1 else [n]
        flat = x.reshape(*x.shape[:start], *each, *x.shape[stop:])
        return function(flat, start + len(each) - 1).reshape(x.shape)
    order, moved = _order(axes, x), _front(axes, groups, x)
    out = function(moved, moved.ndim - 1).reshape([x.shape[i] for i in order])
    return out.transpose([order.index(i) for i in range(x.ndim)])


def _order(axes: tuple[int, ...], x: Array) -> list[int]:
    return [i for i in range(x.ndim) if i not in axes] + list(axes)


def _front(axes: tuple[int, ...], groups: int, x: Array) -> Array:
    """`x` with `axes` flattened to the last axis, one of each group."""
    tiling.check_flattened(x, axes, "Values of a transform")
    order = _order(axes, x)
    n = math.prod(x.shape[i] for i in axes)
    kept = [x.shape[i] for i in order[: x.ndim - len(axes)]]
    return x.transpose(order).reshape([*kept, *([groups] if groups > 1 else []), n // groups])
