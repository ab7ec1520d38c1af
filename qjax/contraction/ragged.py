"""Ragged products with quantized operands and gradients: one weight for each group of rows.

Mixtures of experts are computed so. The sizes of the groups are data; they are not
quantized and have no gradient.
"""

import dataclasses
from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp

from qjax._typing import Array, DTypeLike, Key
from qjax.contraction.axes import Labelling, dot_general_labels
from qjax.contraction.operations import Pair
from qjax.contraction.ops import checked
from qjax.contraction.policy import Policy
from qjax.contraction.variables import Variables


@dataclasses.dataclass(frozen=True)
class RaggedDot:
    """`jax.lax.ragged_dot_general` with everything but its operands fixed."""

    contract: Pair
    batch: Pair
    lhs_ragged: tuple[int, ...]
    rhs_group: tuple[int, ...]
    precision: Hashable = None
    preferred_element_type: DTypeLike | None = None

    def __call__(self, lhs: Array, rhs: Array, group_sizes: Array, *offset: Array) -> Array:
        numbers = jax.lax.RaggedDotDimensionNumbers(
            (self.contract, self.batch), self.lhs_ragged, self.rhs_group
        )
        return jax.lax.ragged_dot_general(
            lhs,
            rhs,
            group_sizes,
            numbers,
            precision=self.precision,  # type: ignore[arg-type]
            preferred_element_type=self.preferred_element_type,
            group_offset=offset[0] if offset else None,
        )

    def labels(self, lhs_ndim: int, rhs_ndim: int) -> Labelling:
        plain = dot_general_labels(lhs_ndim, rhs_ndim, self.contract, self.batch)
        groups = tuple(plain.rhs[i] for i in self.rhs_group)
        # Without an axis of groups in rhs the result has one, in front.
        out = tuple(label for label in plain.out if label not in groups)
        if not groups:
            groups = ("group",)
            out = (*groups, *out)
        ragged = tuple(plain.lhs[i] for i in self.lhs_ragged)
        return Labelling(plain.lhs, plain.rhs, out, apart=groups, ragged=ragged)

    def accumulate(self, dtype: DTypeLike) -> "RaggedDot":
        return dataclasses.replace(self, preferred_element_type=jnp.dtype(dtype))


def ragged_dot(
    lhs: Array,
    rhs: Array,
    group_sizes: Array,
    precision: Hashable = None,
    preferred_element_type: DTypeLike | None = None,
    group_offset: Array | None = None,
    *,
    policy: Policy,
    key: Key | None = None,
    variables: Variables | None = None,
) -> Array:
    """Computes `jax.lax.ragged_dot` with quantized operands and gradients.

    Args:
      lhs: (m, k) array of floating point: the rows, sorted by group.
      rhs: (g, k, n) array of floating point: one matrix for each group.
      group_sizes: (g,) integers: the number of rows in each group.
      precision: As in JAX.
      preferred_element_type: Dtype of the result, as in JAX.
      group_offset: As in JAX.
      policy: How the six operands are quantized.
      key: Key of the noise, needed where `policy` rounds stochastically.
      variables: What its operands learn and remember, needed where they do.

    Returns:
      (m, n) array of the dtype that JAX gives.

    Raises:
      TypeError: If an operand is not of floating point, or `policy` is no `Policy`.
      ValueError: If `policy` rounds stochastically and `key` is None.
    """
    numbers = jax.lax.RaggedDotDimensionNumbers((((1,), (1,)), ((), ())), (0,), (0,))
    return ragged_dot_general(
        lhs,
        rhs,
        group_sizes,
        numbers,
        precision,
        preferred_element_type,
        group_offset,
        policy=policy,
        key=key,
        variables=variables,
    )


def ragged_dot_general(
    lhs: Array,
    rhs: Array,
    group_sizes: Array,
    ragged_dot_dimension_numbers: Any,
    precision: Hashable = None,
    preferred_element_type: DTypeLike | None = None,
    group_offset: Array | None = None,
    *,
    policy: Policy,
    key: Key | None = None,
    variables: Variables | None = None,
) -> Array:
    """Computes `jax.lax.ragged_dot_general`; see `ragged_dot`, which has the usual axes."""
    numbers = ragged_dot_dimension_numbers
    contract, batch = numbers.dot_dimension_numbers
    op = RaggedDot(
        (tuple(contract[0]), tuple(contract[1])),
        (tuple(batch[0]), tuple(batch[1])),
        tuple(numbers.lhs_ragged_dimensions),
        tuple(numbers.rhs_group_dimensions),
        precision,
        preferred_element_type,
    )
    extra = (group_sizes,) if group_offset is None else (group_sizes, group_offset)
    return checked("ragged_dot", op, lhs, rhs, policy, key, extra, variables)
