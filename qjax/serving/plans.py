"""How one weight becomes a packed tensor, from what a traced model does with it.

The weight is moved as the model moves it on its way to a contraction, encoded there along
the axes that are contracted, and moved back, so that the packed tensor takes its place.

Where the contraction transforms its operands first, so is the weight, and its tensor says by what:
only a contraction with this very transform takes it. A transform that follows from the data of
both operands cannot be applied beforehand; two-part operands are two tensors; and trained operands
are decoded by values that go on living beside the weight. All three are refused by name.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from qjax import tiling
from qjax._typing import Array, Key, Shape
from qjax.contraction import Gemm, Transform
from qjax.contraction.axes import Paired
from qjax.contraction.cancelling import baked, held
from qjax.qtensor import QTensor
from qjax.qtypes import QType
from qjax.quantizer import Quantizer
from qjax.recipes.weights import Move, Use

RESHAPES = ("reshape", "squeeze")
STILL = ("copy", "copy_p", "stop_gradient", "sharding_constraint", "convert_element_type")


class Unpackable(ValueError):
    """Why a weight cannot be packed as its contractions ask."""


@dataclasses.dataclass(frozen=True)
class Change:
    """What a weight goes through before it is encoded.

    Attributes:
      basis: Name of the map.
      side: Which operand of the contraction the weight is.
      axes: Where the map acts in both operands.
      wide: Dtype that operands are mapped in.
      transform: The transform; its name stands for it where changes are compared.
    """

    basis: str
    side: int
    axes: Paired
    wide: str
    transform: Transform = dataclasses.field(compare=False)

    def __call__(self, x: Array) -> Array:
        """The operand after the map, as its contraction computes it."""
        return baked(self.transform, self.axes, self.side, held(x, self.wide))


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a weight is packed.

    Attributes:
      quantizer: What encodes it.
      contract: Axes that the contraction sums over, of the operand.
      batch: Axes that both operands share.
      stack: Leading axes along which it holds one weight each.
      moves: From the weight to the operand.
      change: What the operand goes through before it is encoded.
    """

    quantizer: Quantizer
    contract: tuple[int, ...]
    batch: tuple[int, ...] = ()
    stack: int = 0
    moves: tuple[Move, ...] = ()
    change: Change | None = None

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
        basis = "" if self.change is None else self.change.basis
        operand = operand if self.change is None else self.change(operand)
        tensor = self.quantizer.encode(operand, **axes, key=key)
        tensor = dataclasses.replace(tensor, basis=basis)
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
        axes, track = use.known.labels.leg("fwd")[use.side], use.track
        change = _change_of(use)
        _check_moves(track.moves, use, axes.contract, axes.batch, change)
        quantizer = only(use.quantizer)
        found.append(Plan(quantizer, axes.contract, axes.batch, track.stack, track.moves, change))
    if not found:
        return None
    if others:
        raise Unpackable(f"it is read by {', '.join(dict.fromkeys(others))} too")
    if any(one != found[0] for one in found):
        paths = ", ".join(dict.fromkeys(repr(use.known.path) for use in uses))
        raise Unpackable(f"the contractions at {paths} take it in different types or tiles")
    return found[0]


def _change_of(use: Use) -> Change | None:
    """What the contraction of a weight does to it before it is encoded; None for nothing."""
    transform = use.known.policy.fwd.transform
    if transform is None:
        return None
    wide = "float64" if jnp.float64 in use.known.dtypes else "float32"
    return change(transform, use.side, use.known.labels.paired("fwd"), wide)


def change(transform: Transform, side: int, axes: Paired, wide: str = "float32") -> Change:
    """A transform, for one operand alone.

    Raises:
      Unpackable: If it follows from both operands.
    """
    basis = transform.basis(side)
    if basis is None:
        raise Unpackable(
            f"{transform!r}, which comes before it is quantized, follows from operands at hand or "
            "from traced numbers; fix its numbers beforehand"
        )
    return Change(basis, side, axes, wide, transform)


def _check_moves(
    moves: Sequence[Move],
    use: Use,
    contract: tuple[int, ...],
    batch: tuple[int, ...],
    change: Change | None,
) -> None:
    """Refuses what packed tensors cannot follow at run time."""
    for move in moves:
        if move.name not in (*RESHAPES, *STILL, "transpose", "concatenate"):
            raise Unpackable(f"{move.name} comes between it and {use.known.path!r}")
        if move.name != "concatenate":
            continue
        (axis,) = move.axes
        if change is not None and axis in (change.axes.lhs, change.axes.rhs)[change.side]:
            raise Unpackable(f"a transform spans the parts that {use.known.path!r} joins")
        if _spans(use.quantizer.qtype, move, contract, batch):
            raise Unpackable(f"a scale spans the parts that {use.known.path!r} joins")


def _spans(qtype: QType, move: Move, contract: tuple[int, ...], batch: tuple[int, ...]) -> bool:
    """Whether a scale, or one of its own scales, spans parts that are joined."""
    shared = (qtype.scale, qtype.zero)
    if shared == (None, None) and not qtype.format.tile_bits:
        return False
    shapes, (axis,) = (move.before, move.after), move.axes
    part, whole = (tiling.resolve(shape, qtype.tile, contract, batch) for shape in shapes)
    if (
        part.merged != part.shape
        or part.tiles != whole.tiles
        or part.shape[axis] % part.tiles[axis]
    ):
        return True
    move = move._replace(before=part.scale_shape, after=whole.scale_shape)
    return any(_spans(level, move, contract, batch) for level in shared if level is not None)


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
        raise Unpackable(f"{slot!r} makes more of its weight than one packed tensor")
    return slot


def by_shape(shape: Shape, gemm: Gemm) -> Plan:
    """The plan of a matrix (inputs, outputs), which `x @ w` contracts along its first axis.

    Raises:
      Unpackable: If `shape` is no matrix, or `gemm` makes no packed tensor of it.
    """
    if len(shape) != 2:
        raise Unpackable(f"a kernel of shape {shape} may be contracted along several axes")
    axes = Paired(lhs=(-1,), rhs=(0,))
    first = None if gemm.transform is None else change(gemm.transform, 1, axes)
    return Plan(only(gemm.rhs), (0,), change=first)


def is_packable(leaf: Any) -> bool:
    """Whether a leaf is an array of floating point."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
