"""Which axes each operand of each leg of a bilinear operation contracts.

An operation is described by one label per axis, as in an einsum: `lhs`, `rhs` and `out`.
The three legs permute the roles of the three label strings, so one rule serves them all.
"""

import dataclasses
import math
from collections.abc import Hashable, Sequence
from typing import Literal, Protocol

from qjax._typing import Array, Shape
from qjax.contraction import grouping

Leg = Literal["fwd", "dlhs", "drhs"]
LEGS: tuple[Leg, ...] = ("fwd", "dlhs", "drhs")
Labels = tuple[Hashable, ...]
Pair = tuple[Array, Array]


@dataclasses.dataclass(frozen=True)
class OperandAxes:
    """Roles of the axes of one operand in one leg.

    Attributes:
      contract: Axes that the leg sums over, in the order of their labels.
      batch: Axes that both operands and the result share.
    """

    contract: tuple[int, ...]
    batch: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Paired:
    """Axes of both operands of a leg, in the same order: the n-th of one meets the n-th of the
    other.

    Attributes:
      lhs: Contracted axes of the first operand.
      rhs: Contracted axes of the second operand.
      lhs_batch: Axes of the first operand that both operands and the result share.
      rhs_batch: The same axes in the second operand.
      lhs_groups: Parts of the flattened contracted axes of the first operand that meet the
        second operand separately, as in a grouped convolution.
      rhs_groups: The same of the second operand.
    """

    lhs: tuple[int, ...]
    rhs: tuple[int, ...]
    lhs_batch: tuple[int, ...] = ()
    rhs_batch: tuple[int, ...] = ()
    lhs_groups: int = 1
    rhs_groups: int = 1


class Axes(Protocol):
    """Says which axes each leg of an operation contracts, and what a leg costs."""

    def leg(self, leg: Leg) -> tuple[OperandAxes, OperandAxes]:
        """Axes of both operands of a leg, in the order of the fields of `Gemm`."""
        ...

    def paired(self, leg: Leg) -> Paired:
        """Axes along which every index of one operand meets the same index of the other.

        Raises:
          ValueError: If the leg has contracted axes of which this is not true.
        """
        ...

    def unfolded(
        self,
        leg: Leg,
        operands: tuple[Array, Array],
        shapes: tuple[Shape, Shape],
        extra: Sequence[Array],
    ) -> tuple[Array, Array, "Labelling"]:
        """The operands of a leg as those of a plain product, and the labels of that.

        The `fwd` leg of the labels is the leg that was asked for; its result has the elements of
        the leg's result in order. Which axes are contracted, and in which order, is that of the
        first operand.

        Args:
          leg: The leg.
          operands: Both operands of the leg.
          shapes: Shapes of `lhs` and `rhs`, whichever the leg.
          extra: Arrays that the operation takes besides.

        Raises:
          ValueError: If the leg is no such product.
        """
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
      ragged: Labels along which those indices lie one after another, as rows of experts do.
    """

    lhs: Labels
    rhs: Labels
    out: Labels
    apart: Labels = ()
    ragged: Labels = ()

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

    def paired(self, leg: Leg) -> Paired:
        """Contracted and batch axes of both operands, in the order of the first.

        Raises:
          ValueError: If a contracted axis is ragged, or repeated as in "ii,i->".
        """
        first, second, result = self.roles(leg)
        shared = [x for x in dict.fromkeys(first) if x in second]
        contract = [x for x in shared if x not in result]
        for label in contract:
            if label in self.ragged or first.count(label) + second.count(label) > 2:
                raise ValueError(
                    f"The policy transforms or samples `{leg}` along its contracted axes, but one "
                    "of them is ragged or a diagonal, where both operands do not meet index by "
                    f"index. Leave `transform` and `sampling` out of `{leg}`."
                )
        batch = [x for x in shared if x in result and first.count(x) == second.count(x) == 1]
        return Paired(
            lhs=tuple(first.index(x) for x in contract),
            rhs=tuple(second.index(x) for x in contract),
            lhs_batch=tuple(first.index(x) for x in batch),
            rhs_batch=tuple(second.index(x) for x in batch),
        )

    def unfolded(
        self,
        leg: Leg,
        operands: tuple[Array, Array],
        shapes: tuple[Shape, Shape],
        extra: Sequence[Array],
    ) -> tuple[Array, Array, "Labelling"]:
        """The operands as they are; those of ragged products with their groups written out.

        Raises:
          ValueError: If an axis is repeated, as in "ii,i->".
        """
        (lhs, rhs), (first, second, result) = operands, self.roles(leg)
        if any(len(set(part)) < len(part) for part in (first, second, result)):
            raise ValueError(
                f"The policy multiplies or sums `{leg}` number by number, but one of its arrays "
                f"is a diagonal. Leave `accumulator` and `multiplier` out of `{leg}`."
            )
        if self.apart:
            (group,), (row,) = self.apart, self.ragged
            has = group in self.rhs
            count = shapes[1][self.rhs.index(group)] if has else extra[0].shape[0]
            parts = ((lhs, first), (rhs, second))
            if group in result:
                lhs, first = grouping.spread(*parts[0], group, row, count, extra)
            else:
                (lhs, first), (rhs, second) = (
                    grouping.pick(*part, group, row, parts, extra) for part in parts
                )
        return lhs, rhs, Labelling(first, second, result)

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
