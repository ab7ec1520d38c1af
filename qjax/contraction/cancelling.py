"""A transform at the two operands of one product: along its contracted axes, and in its gradients.

The axes are flattened in the order of the first operand's. No operation is known by name: `axes`
says which ones are contracted, `transforms` what is done along them.
"""

import dataclasses
import math
from typing import Any

import jax

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
        return along(*_of(self.axes, 0), x, self._map(self.transform.first))

    def second(self, x: Array) -> Array:
        """The map of the second operand, in its own shape."""
        return along(*_of(self.axes, 1), x, self._map(self.transform.second))

    def both(self, lhs: Array, rhs: Array, done: tuple[bool, bool]) -> tuple[Array, Array]:
        """Both operands; those that are `done` were mapped before they were stored."""
        return lhs if done[0] else self.first(lhs), rhs if done[1] else self.second(rhs)

    def lowered(self, side: int, gradient: Array) -> Array:
        """The gradient of an operand (0 or 1), from that of its transform."""
        function = (self.first, self.second)[side]
        (result,) = jax.linear_transpose(function, gradient)(gradient)
        return result

    def lifted(self, side: int, gradient: Array) -> Array:
        """The gradient of the transform of an operand, from that of the operand."""
        # The gradient of one operand goes the way of the other operand.
        swapped = (self.transform.second, self.transform.first)[side]
        return along(*_of(self.axes, side), gradient, self._map(swapped))

    def _map(self, function: Any) -> Any:
        return lambda x: function(x, self.measured)


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
    measured = _alone(transform, axes, side, x)
    function = (transform.first, transform.second)[side]
    return along(*_of(axes, side), x, lambda part: function(part, measured))


def unbaked(transform: Transform, axes: Paired, side: int, x: Array) -> Array:
    """The operand that `baked` made `x` of, rounding apart."""
    measured = _alone(transform, axes, side, x)
    # What cancels a map is the transpose of the other operand's.
    other = (transform.second, transform.first)[side]

    def back(part: Array) -> Array:
        (result,) = jax.linear_transpose(lambda v: other(v, measured), part)(part)
        return result

    return along(*_of(axes, side), x, back)


def _alone(transform: Transform, axes: Paired, side: int, x: Array) -> Any:
    # Only how many channels there are is looked at, which both operands know.
    part = _front(*_of(axes, side), x)
    return transform.measure(part, part)


def _of(axes: Paired, side: int) -> tuple[tuple[int, ...], int]:
    """The axes of one operand, and how many groups they hold."""
    return ((axes.lhs, axes.lhs_groups), (axes.rhs, axes.rhs_groups))[side]


def along(axes: tuple[int, ...], groups: int, x: Array, function: Any) -> Array:
    """Applies `function`, which acts on the last axis, along `axes` flattened in their order.

    Args:
      axes: Axes of `x`.
      groups: Parts of the flattened axis that are mapped each on their own.
      x: Array.
      function: Keeps shapes.
    """
    order, moved = _order(axes, x), _front(axes, groups, x)
    out = function(moved).reshape([x.shape[i] for i in order])
    return out.transpose([order.index(i) for i in range(x.ndim)])


def _order(axes: tuple[int, ...], x: Array) -> list[int]:
    return [i for i in range(x.ndim) if i not in axes] + list(axes)


def _front(axes: tuple[int, ...], groups: int, x: Array) -> Array:
    """`x` with `axes` flattened to the last axis, one of each group."""
    order = _order(axes, x)
    n = math.prod(x.shape[i] for i in axes)
    kept = [x.shape[i] for i in order[: x.ndim - len(axes)]]
    return x.transpose(order).reshape([*kept, *([groups] if groups > 1 else []), n // groups])
