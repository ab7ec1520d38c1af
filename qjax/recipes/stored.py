"""Packed tensors in a traced program: they move as codes, and meet their contraction as such.

A program is traced for arrays. Where it only moves the elements of a weight (transposes,
reshapes, changes of dtype, joins) its packed tensor is moved instead; anything else that
reads one sees the decoded array. A contraction that would quantize such an array once more
is refused, because that would give other numbers than the model that was packed.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn, Literal

from qjax import qtensor
from qjax._typing import Shape
from qjax.contraction import Policy
from qjax.qtensor import QTensor
from qjax.recipes.roles import Role

# They change no element, only where it stands.
MOVES = (
    "convert_element_type",
    "transpose",
    "reshape",
    "squeeze",
    "broadcast_in_dim",
    "concatenate",
    "copy",
    "copy_p",
    "stop_gradient",
    "sharding_constraint",
    "slice",
)


def is_stored(x: Any) -> bool:
    """Whether a value is a packed tensor."""
    return isinstance(x, QTensor)


def variable(operand: Any) -> Any:
    """The variable of an operand; None where it is written into the program."""
    return None if isinstance(operand, Literal) else operand


def stack_of(tensor: QTensor) -> int:
    """Number of leading axes along which a tensor stacks several, each of its layout."""
    return tensor.qvalue.ndim - tensor.ndim


def shape_of(x: Any) -> Any:
    """What a program is traced with: the shape of a packed tensor's array, others as they are."""
    if not is_stored(x):
        return x
    stack = x.qvalue.shape[: stack_of(x)]
    return jax.ShapeDtypeStruct((*stack, *x.shape), jnp.dtype(x.dtype))


def arrays(values: Iterable[Any]) -> list[Any]:
    """The values with packed tensors decoded."""
    return [_decoded(x) if is_stored(x) else x for x in values]


def _decoded(tensor: QTensor) -> Any:
    if tensor.basis:
        raise ValueError(
            f"A quantized model reads {tensor!r} otherwise than by a contraction, but these are no "
            "values of the weight itself. Leave it unpacked, or pack it by a recipe without this "
            "transform."
        )
    decode = QTensor.decode
    for _ in range(stack_of(tensor)):
        decode = jax.vmap(decode)
    return decode(tensor)


def move(eqn: JaxprEqn, operands: Sequence[Any]) -> QTensor | None:
    """Does to packed tensors what `eqn` does to arrays; None where that is more than a move."""
    if eqn.primitive.name not in MOVES or not operands or not all(map(is_stored, operands)):
        return None
    name, (tensor, *_) = eqn.primitive.name, operands
    result: Any = eqn.outvars[0].aval
    if name == "convert_element_type":
        narrow = jnp.issubdtype(result.dtype, jnp.floating)
        return dataclasses.replace(tensor, dtype=result.dtype.name) if narrow else None
    if stack_of(tensor):
        return _moved_stack(eqn, tensor)
    try:
        if name == "transpose":
            return tensor.transpose(*eqn.params["permutation"])
        if name == "concatenate":
            joined = qtensor.concatenate(list(operands), eqn.params["dimension"])
            # Where parts keep scales of their own it is another type, and has other values than
            # a quantizer of the whole gives.
            return joined if joined.qtype == tensor.qtype else None
        if name in ("reshape", "squeeze", "broadcast_in_dim"):
            return _reshaped(eqn, tensor, result.shape)
        if name == "slice":
            return tensor[slices(eqn)]
    except ValueError:  # It would cut a tile.
        return None
    return tensor


def _reshaped(eqn: JaxprEqn, tensor: QTensor, shape: Shape) -> QTensor | None:
    axes = eqn.params.get("broadcast_dimensions")
    if eqn.params.get("dimensions") is not None and eqn.primitive.name == "reshape":
        return None
    if axes is not None and (list(axes) != sorted(axes) or tensor.qvalue.size != _size(shape)):
        return None
    return tensor if shape == tensor.shape else tensor.reshape(*shape)


def _moved_stack(eqn: JaxprEqn, tensor: QTensor) -> QTensor | None:
    """Takes one of a stack, as indexing by a number does: a slice of length 1, then a squeeze."""
    name, result = eqn.primitive.name, eqn.outvars[0].aval.shape  # type: ignore[attr-defined]
    if name == "slice" and result[stack_of(tensor) :] == tensor.shape:
        picked = slices(eqn)[: stack_of(tensor)]
        return jax.tree.map(lambda codes: codes[picked], tensor)
    if name == "squeeze" and all(axis < stack_of(tensor) for axis in eqn.params["dimensions"]):
        return jax.tree.map(lambda codes: codes.squeeze(eqn.params["dimensions"]), tensor)
    return tensor if name in ("copy", "copy_p", "stop_gradient", "sharding_constraint") else None


def slices(eqn: JaxprEqn) -> tuple[slice, ...]:
    """What the equation `slice` takes along each axis."""
    first, last, step = (eqn.params[name] for name in ("start_indices", "limit_indices", "strides"))
    return tuple(map(slice, first, last, step or (1,) * len(first)))


def _size(shape: Shape) -> int:
    return jax.ShapeDtypeStruct(shape, jnp.int8).size


def check_kept(
    path: str, name: str, operands: Sequence[Any], roles: Sequence[Role], policy: Policy
) -> None:
    """Refuses a contraction that would quantize what was decoded on its way here.

    Raises:
      ValueError: If it does, naming the place in the model.
    """
    for side, x, role in zip(("lhs", "rhs"), operands, roles):
        quantized = getattr(policy.fwd, side) is not None
        if role is Role.STORED and quantized and not is_stored(x):
            raise ValueError(
                f"`quantize` was asked to quantize the `{side}` of {name} at {path!r}, which is "
                "computed from a packed weight by more than moves of its elements. Leave that "
                "weight unpacked, or exempt this contraction by a rule."
            )


def check_wanted(path: str, name: str, operands: Sequence[Any]) -> None:
    """Refuses packed operands of a contraction that no rule quantizes.

    Raises:
      ValueError: If one is packed, naming the place in the model and both types.
    """
    for side, x in zip(("lhs", "rhs"), operands):
        if is_stored(x):
            raise ValueError(
                f"The {name} at {path!r} takes an array of floating point as `{side}`, because no "
                f"rule quantizes it, but a tensor packed as {x.kind}, of shape {x.shape}, "
                "came. Use the recipe that it was packed by, or give the float weights."
            )
