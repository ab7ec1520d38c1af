"""Ragged products written out as plain ones: every row meets the matrix of its own group.

Rows lie one group after another, and the sizes of the groups are data. Where groups are an axis
of the result, rows of other groups become zeros; elsewhere each row takes a copy of its matrix.
Both take as much memory as that says; they serve emulations that multiply number by number.
"""

from collections.abc import Hashable, Sequence

import jax.numpy as jnp

from qjax._typing import Array

Labels = tuple[Hashable, ...]
Labelled = tuple[Array, Labels]


def spread(
    x: Array, labels: Labels, group: Hashable, row: Hashable, count: int, extra: Sequence[Array]
) -> Labelled:
    """An operand with a first axis for its groups, zero in the rows of all other groups.

    Args:
      x: An operand with an axis of rows.
      labels: Labels of its axes.
      group: Label of the groups.
      row: Label of the rows.
      count: Number of groups.
      extra: Sizes of the groups, and the number of the first group where that is not zero.
    """
    rows = x.shape[labels.index(row)]
    mine = jnp.arange(count)[:, None] == _groups(rows, extra)
    shape = [count, *(rows if label == row else 1 for label in labels)]
    return jnp.where(mine.reshape(shape), x, jnp.zeros_like(x)), (group, *labels)


def pick(
    x: Array,
    labels: Labels,
    group: Hashable,
    row: Hashable,
    operands: Sequence[Labelled],
    extra: Sequence[Array],
) -> Labelled:
    """An operand with the part of each row's group in place of all groups; see `spread`.

    One without an axis of groups stays as it is. `operands` are both, of which one has rows.
    """
    if group not in labels:
        return x, labels
    rows = next(a.shape[of.index(row)] for a, of in operands if row in of)
    own, axis = _groups(rows, extra), labels.index(group)
    inside = (own >= 0) & (own < x.shape[axis])
    taken = jnp.take(x, jnp.where(inside, own, 0), axis=axis)
    shape = [rows if label == group else 1 for label in labels]
    taken = jnp.where(inside.reshape(shape), taken, jnp.zeros_like(taken))
    return taken, tuple(row if label == group else label for label in labels)


def _groups(rows: int, extra: Sequence[Array]) -> Array:
    """The group of each row, counted from the first that there is a matrix for."""
    sizes = extra[0]
    ends = jnp.cumsum(sizes)
    own = jnp.searchsorted(ends, jnp.arange(rows, dtype=ends.dtype), side="right")
    first = extra[1].reshape(()).astype(own.dtype) if len(extra) > 1 else 0
    return own - first
