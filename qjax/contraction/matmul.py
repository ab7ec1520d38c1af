"""`jax.numpy.matmul` with a policy: its shapes written out for `einsum`, which does the rest."""

from collections.abc import Hashable

import jax.numpy as jnp

from qjax._typing import Array, DTypeLike, Key, Shape
from qjax.contraction.ops import einsum
from qjax.contraction.policy import Policy
from qjax.contraction.variables import Variables


def matmul(
    a: Array,
    b: Array,
    *,
    precision: Hashable = None,
    preferred_element_type: DTypeLike | None = None,
    policy: Policy,
    key: Key | None = None,
    variables: Variables | None = None,
) -> Array:
    """Computes `jax.numpy.matmul` with quantized operands and gradients.

    Args:
      a: [..., M, K] or [K], of floating point. Leading axes are batches and broadcast.
      b: [..., K, N] or [K]; the weight, where one operand is one.
      precision: As in JAX.
      preferred_element_type: Dtype of the result, as in JAX.
      policy: How the six operands are quantized.
      key: Key of the noise, needed where `policy` rounds stochastically.
      variables: What its operands learn and remember, needed where they do.

    Returns:
      [..., M, N] without the axes that a vector lacks, in the dtype that JAX gives.

    Raises:
      TypeError: If an operand is not of floating point, or `policy` is no `Policy`.
      ValueError: If an operand is a scalar, the axes do not fit, or a needed key is missing.
    """
    lhs, rhs = jnp.shape(a), jnp.shape(b)
    _check_shapes(lhs, rhs)
    batch = jnp.broadcast_shapes(lhs[:-2], rhs[:-2])
    # Axes of one operand alone are no batch: it is spread only where sizes differ.
    a = jnp.broadcast_to(a, _spread(lhs, batch))
    b = jnp.broadcast_to(b, _spread(rhs, batch))
    left, right = "m" if len(lhs) > 1 else "", "n" if len(rhs) > 1 else ""
    subscripts = f"...{left}k,...k{right}->...{left}{right}"
    dtypes = {"precision": precision, "preferred_element_type": preferred_element_type}
    return einsum(subscripts, a, b, **dtypes, policy=policy, key=key, variables=variables)


def _check_shapes(lhs: Shape, rhs: Shape) -> None:
    if not lhs or not rhs:
        raise ValueError(
            f"`matmul` was asked to contract shapes {lhs} and {rhs}, but a scalar has no axis to "
            "contract. Give both operands at least one axis, or multiply with `*`."
        )
    if lhs[-1] != rhs[-2 if len(rhs) > 1 else 0]:
        raise ValueError(
            f"`matmul` was asked to contract the last axis of shape {lhs} with "
            f"{'the last but one' if len(rhs) > 1 else 'the only'} axis of shape {rhs}, whose "
            "sizes differ. Transpose or reshape an operand."
        )


def _spread(shape: tuple[int, ...], batch: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of an operand whose batch axes of size 1 have the size of the batch's."""
    own = len(shape[:-2])
    return (*batch[len(batch) - own :], *shape[own:])
