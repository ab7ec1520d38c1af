"""Operands that come to a contraction encoded: weights that are served as they were stored."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from qjax._typing import Array, Shape
from qjax.contraction.axes import Axes
from qjax.contraction.cancelling import unbaked
from qjax.contraction.legs import Operation
from qjax.contraction.policy import Gemm, Policy
from qjax.contraction.record import here
from qjax.contraction.transforms import Transform
from qjax.qtensor import QTensor
from qjax.quantizer import Quantizer, Stored

SIDES = ("lhs", "rhs")


def take_stored(
    name: str, op: Operation, lhs: Any, rhs: Any, policy: Policy
) -> tuple[Array, Array, Policy]:
    """Puts encoded operands in the slots of the policy's forward leg.

    The operands come back as arrays of the stored values, which only gradients look at: the
    forward leg takes the codes. What was transformed before it was encoded is transformed back.

    Args:
      name: The operation, for messages.
      op: The operation.
      lhs: Array, or the tensor that `policy.fwd.lhs` made of it.
      rhs: Array, or the tensor that `policy.fwd.rhs` made of it.
      policy: Of the contraction.

    Raises:
      ValueError: If the policy does not quantize an encoded operand, quantizes it to another
        type, or transforms it otherwise.
    """
    if not any(isinstance(x, QTensor) for x in (lhs, rhs)):
        return lhs, rhs, policy
    labels, transform = op.labels(*(len(shape_of(x)) for x in (lhs, rhs))), policy.fwd.transform
    arrays, slots = [], {}
    for n, x in enumerate((_after(lhs, rhs), _after(rhs, lhs))):
        if isinstance(x, QTensor):
            check_type(name, n, x, policy.fwd)
            slots[SIDES[n]] = Stored(x)
        arrays.append(_values(x, n, transform, labels) if isinstance(x, QTensor) else x)
    fwd: Gemm = dataclasses.replace(policy.fwd, **slots)
    return arrays[0], arrays[1], dataclasses.replace(policy, fwd=fwd)


def _values(tensor: QTensor, side: int, transform: Transform | None, labels: Axes) -> Array:
    """The values of an operand as they were before any transform."""
    if transform is None:
        return tensor.decode()
    values = unbaked(transform, labels.paired("fwd"), side, tensor.decode(jnp.float32))
    return values.astype(tensor.dtype)


def shape_of(x: Any) -> Shape:
    """The shape of an operand, encoded or not."""
    return x.shape if isinstance(x, QTensor) else jnp.shape(x)


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


def check_type(name: str, side: int, tensor: QTensor, gemm: Gemm) -> None:
    """Refuses an operand that is transformed or encoded otherwise than its contraction asks.

    Raises:
      ValueError: Naming the place in the model, both types and both transforms.
    """
    quantizer, transform = (gemm.lhs, gemm.rhs)[side], gemm.transform
    asked = quantizer.qtype if isinstance(quantizer, Quantizer) else None
    basis = "" if transform is None else transform.basis(side)
    if asked == tensor.qtype and basis == tensor.basis:
        return
    wanted = "an array of floating point" if asked is None else asked.name
    if asked is not None and transform is not None:
        found = f"{transform!r}, which follows from operands or traced numbers"
        wanted += f" after {found if basis is None else basis}"
    where = f" at {here()!r}" if here() else ""
    raise ValueError(
        f"`{name}`{where} takes {wanted} as `{SIDES[side]}`, but a tensor packed as "
        f"{tensor.kind}, of shape {tensor.shape}, came. Use the recipe that it was packed by, or "
        "pack the float weights again."
    )
