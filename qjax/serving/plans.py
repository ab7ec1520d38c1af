"""How one weight becomes a packed tensor, from what a traced model does with it.

The weight is moved as the model moves it on its way to a contraction, encoded there along
the axes that are contracted, and moved back, so that the packed tensor takes its place.

A packed tensor holds the codes of the weight itself. What a contraction encodes after a transform
is another tensor, of the weight's shape but in another basis, which no other reader could take;
two-part operands are two tensors; and trained operands are decoded by values that go on living
beside the weight. All three are refused by name.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from qjax import tiling
from qjax._typing import Array, Key, Shape
from qjax.qtensor import QTensor
from qjax.quantizer import Quantizer
from qjax.recipes.weights import Move, Use

RESHAPES = ("reshape", "squeeze")
STILL = ("copy", "copy_p", "stop_gradient", "sharding_constraint", "convert_element_type")


class Unpackable(ValueError):
    """Why a weight cannot be packed as its contractions ask."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a weight is packed.

    Attributes:
      quantizer: What encodes it.
      contract: Axes that the contraction sums over, of the operand.
      batch: Axes that both operands share.
      stack: Leading axes along which it holds one weight each.
      moves: From the weight to the operand.
    """

    quantizer: Quantizer
    contract: tuple[int, ...]
    batch: tuple[int, ...] = ()
    stack: int = 0
    moves: tuple[Move, ...] = ()

    def encode(self, weight: Array, key: Key | None = None) -> QTensor:
        """Returns the packed weight.

        Raises:
          Unpackable: If its tiles do not lie in one piece in the weight's own shape.
        """
        one = self._one
        for _ in range(self.stack):
            one = jax.vmap(one, (0, None if key is None else 0))
        count: Any = weight.shape[: self.stack]
        keys = key if key is None or not count else jax.random.split(key, count)
        return one(weight, keys)

    def _one(self, weight: Array, key: Key | None) -> QTensor:
        operand = weight
        for move in self.moves:
            operand = _forward(move, operand)
        axes = {"contract": self.contract, "batch": self.batch}
        tensor = self.quantizer.encode(operand, **axes, key=key)
        try:
            for move in reversed(self.moves):
                tensor = _backward(move, tensor)
        except ValueError as error:
            raise Unpackable(str(error)) from error
        return dataclasses.replace(tensor, dtype=weight.dtype.name)


def plan(uses: Sequence[Use], others: Sequence[str]) -> Plan | None:
    """How a weight with these uses is packed; None where none of them quantizes it.

    Args:
      uses: The contractions that it is an operand of.
      others: What else reads it.

    Raises:
      Unpackable: If one packed tensor cannot serve all of them.
    """
    found: list[Plan] = []
    for use in uses:
        if use.quantizer is None:
            others = [*others, f"{use.known.op} at {use.known.path!r} in high precision"]
            continue
        if use.known.policy.fwd.transform is not None:
            raise Unpackable(f"{use.known.path!r} transforms it before it is quantized")
        axes = use.known.labels.leg("fwd")[use.side]
        moves = use.track.moves
        _check_moves(moves, use, axes.contract, axes.batch)
        found.append(Plan(only(use.quantizer), axes.contract, axes.batch, use.track.stack, moves))
    if not found:
        return None
    if others:
        raise Unpackable(f"it is read by {', '.join(dict.fromkeys(others))} too")
    if any(one != found[0] for one in found):
        paths = ", ".join(dict.fromkeys(repr(use.known.path) for use in uses))
        raise Unpackable(f"the contractions at {paths} take it in different types or tiles")
    return found[0]


def _check_moves(
    moves: Sequence[Move], use: Use, contract: tuple[int, ...], batch: tuple[int, ...]
) -> None:
    """Refuses what packed tensors cannot follow at run time."""
    for move in moves:
        if move.name not in (*RESHAPES, *STILL, "transpose", "concatenate"):
            raise Unpackable(f"{move.name} comes between it and {use.known.path!r}")
        if move.name != "concatenate":
            continue
        tile = use.quantizer.qtype.tile
        part, whole = (tiling.resolve(s, tile, contract, batch) for s in (move.before, move.after))
        (axis,) = move.axes
        cut = part.merged != part.shape or part.tiles != whole.tiles
        if cut or move.before[axis] % part.tiles[axis]:
            raise Unpackable(f"a scale spans the parts that {use.known.path!r} joins")


def _forward(move: Move, x: Array) -> Array:
    if move.name == "convert_element_type":
        return x.astype(move.dtype)
    if move.name == "transpose":
        return x.transpose(move.axes)
    return x.reshape(move.after) if move.name in RESHAPES else x


def _backward(move: Move, tensor: QTensor) -> QTensor:
    if move.name == "transpose":
        return tensor.transpose(*(move.axes.index(i) for i in range(len(move.axes))))
    return tensor.reshape(*move.before) if move.name in RESHAPES else tensor


def only(slot: Any) -> Quantizer:
    """The quantizer that a slot of a policy is.

    Raises:
      Unpackable: If it is something else, which splits, learns or remembers.
    """
    if not isinstance(slot, Quantizer) or slot.calibration.stateful:
        raise Unpackable(f"{slot!r} makes more of it than one packed tensor")
    return slot


def by_shape(shape: Shape, quantizer: Quantizer) -> Plan:
    """The plan of a matrix (inputs, outputs), which `x @ w` contracts along its first axis.

    Raises:
      Unpackable: If `shape` is no matrix.
    """
    if len(shape) != 2:
        raise Unpackable(f"a kernel of shape {shape} may be contracted along several axes")
    return Plan(quantizer, (0,))


def is_packable(leaf: Any) -> bool:
    """Whether a leaf is an array of floating point."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
