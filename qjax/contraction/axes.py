"""Which axes each operand of each leg of a bilinear operation contracts.

An operation is described by one label per axis, as in an einsum: `lhs`, `rhs` and `out`.
The three legs permute the roles of the three label strings, so one rule serves them all.
Nothing is computed here.
"""

import dataclasses
import math
from collections.abc import Hashable, Sequence
from typing import Protocol

from qjax.contraction.policy import Leg

Labels = tuple[Hashable, ...]


@dataclasses.dataclass(frozen=True)
class OperandAxes:
    """Roles of the axes of one operand in one leg.

    Attributes:
      contract: Axes that the leg sums over, in the order of their labels.
      batch: Axes that both operands and the result share.
    """

    contract: tuple[int, ...]
    batch: tuple[int, ...]


class Axes(Protocol):
    """Says which axes each leg of an operation contracts, and what a leg costs."""

    def leg(self, leg: Leg) -> tuple[OperandAxes, OperandAxes]:
        """Axes of both operands of a leg, in the order of the fields of `Gemm`."""
        ...

    def flops(self, lhs_shape: Sequence[int], rhs_shape: Sequence[int]) -> int:
        """Multiplications and additions of one leg: the same for all three."""
        ...


@dataclasses.dataclass(frozen=True)
class Labelling:
    """One label for each axis of the two operands and of the result.

    Attributes:
      lhs: Labels of the left operand.
      rhs: Labels of the right operand.
      out: Labels of the result.
      apart: Labels whose indices are separate products, such as the experts of a ragged
        product: no scale of finite extent spans two of them.
    """

    lhs: Labels
    rhs: Labels
    out: Labels
    apart: Labels = ()

    def leg(self, leg: Leg) -> tuple[OperandAxes, OperandAxes]:
        """Axes of both operands of a leg, in the order of the fields of `Gemm`."""
        first, second, result = self.roles(leg)
        return (
            _roles(first, second, result, self.apart),
            _roles(second, first, result, self.apart),
        )

    def roles(self, leg: Leg) -> tuple[Labels, Labels, Labels]:
        """Labels of both operands and of the result of a leg."""
        return {
            "fwd": (self.lhs, self.rhs, self.out),
            "dlhs": (self.out, self.rhs, self.lhs),
            "drhs": (self.lhs, self.out, self.rhs),
        }[leg]

    def flops(self, lhs_shape: Sequence[int], rhs_shape: Sequence[int]) -> int:
        """Multiplications and additions of one leg: the same for all three."""
        sizes = dict(zip(self.lhs, lhs_shape)) | dict(zip(self.rhs, rhs_shape))
        return 2 * math.prod(n for label, n in sizes.items() if label not in self.apart)


def _roles(own: Labels, other: Labels, result: Labels, apart: Labels) -> OperandAxes:
    # A label that the other operand lacks is not contracted with it: it is kept (or, if
    # the result lacks it too, summed within the operand, which a scale may not straddle).
    return OperandAxes(
        contract=tuple(i for i, label in enumerate(own) if label in other and label not in result),
        batch=tuple(
            i
            for i, label in enumerate(own)
            if (label in other and label in result) or label in apart
        ),
    )


def dot_general_labels(
    lhs_ndim: int,
    rhs_ndim: int,
    contract: tuple[Sequence[int], Sequence[int]],
    batch: tuple[Sequence[int], Sequence[int]],
) -> Labelling:
    """Labels of `jax.lax.dot_general`: batch, then free axes of lhs, then of rhs."""
    lhs: list[Hashable] = [("lhs", i) for i in range(lhs_ndim)]
    rhs: list[Hashable] = [("rhs", i) for i in range(rhs_ndim)]
    for kind, pairs in (("contract", contract), ("batch", batch)):
        for n, (i, j) in enumerate(zip(*pairs, strict=True)):
            lhs[i] = rhs[j] = (kind, n)
    shared: list[Hashable] = [("batch", n) for n in range(len(batch[0]))]
    free = [label for label in lhs + rhs if label[0] in ("lhs", "rhs")]  # type: ignore[index]
    return Labelling(tuple(lhs), tuple(rhs), tuple(shared + free))
