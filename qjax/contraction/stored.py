"""Operands that come to a contraction encoded: weights that are served as they were stored."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from qjax._typing import Array
from qjax.contraction.policy import Gemm, Policy
from qjax.contraction.record import here
from qjax.qtensor import QTensor
from qjax.quantizer import Quantizer, Stored


def take_stored(name: str, lhs: Any, rhs: Any, policy: Policy) -> tuple[Array, Array, Policy]:
    """Puts encoded operands in the slots of the policy's forward leg.

    The operands come back as arrays of the stored values, which only gradients look at: the
    forward leg takes the codes.

    Args:
      name: The operation, for messages.
      lhs: Array, or the tensor that `policy.fwd.lhs` made of it.
      rhs: Array, or the tensor that `policy.fwd.rhs` made of it.
      policy: Of the contraction.

    Raises:
      ValueError: If the policy does not quantize an encoded operand, quantizes it to another
        type, or transforms it first.
    """
    if not any(isinstance(x, QTensor) for x in (lhs, rhs)):
        return lhs, rhs, policy
    if policy.fwd.transform is not None:
        raise ValueError(
            f"`{name}` was given a packed operand and {policy.fwd.transform!r}, which acts on "
            "operands before they are encoded. Give the float operand, or leave out the transform."
        )
    slots: dict[str, Any] = {}
    lhs, rhs = _after(lhs, rhs), _after(rhs, lhs)
    for side, x in (("lhs", lhs), ("rhs", rhs)):
        if isinstance(x, QTensor):
            check_type(name, side, x, getattr(policy.fwd, side))
            slots[side] = Stored(x)
    fwd: Gemm = dataclasses.replace(policy.fwd, **slots)
    left, right = (x.decode() if isinstance(x, QTensor) else x for x in (lhs, rhs))
    return left, right, dataclasses.replace(policy, fwd=fwd)


def _after(tensor: Any, other: Any) -> Any:
    """An encoded operand whose decoding has to wait for the other one.

    Compilers decode whatever they can at once, and a model would be in memory as floats, all of
    it. Which numbers are decoded therefore depends on a comparison that is never true, of one
    element of the other operand. Operands that are split over axes of an explicit mesh are left
    alone, because taking one of their elements is a question of where it goes.
    """
    if not isinstance(tensor, QTensor) or isinstance(other, QTensor) or not jnp.size(other):
        return tensor
    other = jnp.asarray(other)
    if any(axes is not None for axes in jax.typeof(other).sharding.spec):
        return tensor
    first = jax.lax.stop_gradient(other)[(0,) * other.ndim]
    never = first > jnp.inf
    late = jax.tree.map(lambda x: jnp.where(never, jnp.zeros_like(x), x), tensor.scale)
    return dataclasses.replace(tensor, scale=late)


def check_type(name: str, side: str, tensor: QTensor, quantizer: Any) -> None:
    """Refuses an operand that is encoded otherwise than its contraction asks.

    Raises:
      ValueError: Naming the place in the model and both types.
    """
    asked = quantizer.qtype if isinstance(quantizer, Quantizer) else None
    if asked != tensor.qtype:
        where = f" at {here()!r}" if here() else ""
        wanted = "an array of floating point" if asked is None else asked.name
        raise ValueError(
            f"`{name}`{where} takes {wanted} as `{side}`, but a tensor packed as "
            f"{tensor.qtype.name} of shape {tensor.shape} came. Use the recipe that it was packed "
            "by, or pack the float weights again."
        )
