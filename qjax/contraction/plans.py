"""The choice of how the product of one leg is carried out on quantized operands.

The reference decodes both operands to float32 and multiplies there. Faster ways give the same
products. Where every value of both types is a bfloat16 (any MX type, block floating point,
integers and floats of eight bits), bfloat16 operands with a float32 sum lose nothing. Where a
scale is constant along the contracted axes it is taken out of the sum, so that the codes alone
are multiplied, as integers or as eight-bit floats. Where a device multiplies MX or NVFP4 blocks
itself, it is given codes and scales. Integer sums are exact; of others only the order and
rounding of the float32 sum differ from the reference.

Unasked, int8 or bfloat16 operands are chosen for products large enough to gain by it, and the
reference otherwise. The reference alone gives the same bits whether the bits of a format are
static or traced: ask for it where both must agree.
"""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp

from qjax._typing import Shape
from qjax.contraction import blockscaled, kernels, narrow, pallas
from qjax.contraction.axes import Labelling, OperandAxes
from qjax.contraction.devices import Device
from qjax.contraction.policy import Gemm, Implementation, Leg
from qjax.qtypes import QType
from qjax.quantizer import Quantizer

Kind = Literal["float32", "bfloat16", "int8", "int4", "float8", "scaled", "pallas", "weights"]
NAMES = {
    "float32": "emulated",
    "bfloat16": "bfloat16 products",
    "int8": "native int8",
    "int4": "native int4",
    "float8": "native float8",
    "scaled": "native block-scaled",
    "pallas": "bfloat16 products, quantized by Pallas",
    "weights": "Pallas product with packed weights",
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """How one leg is carried out.

    Attributes:
      kind: What the multiplied numbers are.
      outside: Whether scales multiply the sum, not the operands.
      interpreted: Whether Pallas kernels are run step by step.
    """

    kind: Kind
    outside: bool = False
    interpreted: bool = False

    def __str__(self) -> str:
        return NAMES[self.kind]


REFERENCE = Plan("float32")
UNQUANTIZED = "an operand is not quantized"
# Indices that each group of axes of a product needs: for any use of narrow operands, and before
# they are worth it.
SMALLEST = 8
AUTOMATIC = 64
BY_KERNELS = ("pallas", "pallas_interpreted")


def plan(
    implementation: Implementation,
    gemm: Gemm,
    labels: Any,
    leg: Leg,
    shapes: tuple[Shape, Shape],
    wide: Any = jnp.float32,
    device: Device | None = None,
) -> Plan:
    """Chooses how a leg is carried out; see `choose`."""
    return choose(implementation, gemm, labels, leg, shapes, wide, device)[0]


def choose(
    implementation: Implementation,
    gemm: Gemm,
    labels: Any,
    leg: Leg,
    shapes: tuple[Shape, Shape],
    wide: Any = jnp.float32,
    device: Device | None = None,
) -> tuple[Plan, str]:
    """Chooses how a leg is carried out, and says what stood against a faster way.

    Args:
      implementation: What the policy asks for. None chooses; "bfloat16" multiplies bfloat16
        operands where that is exact; "xla" prefers products of the device's own, "pallas"
        kernels.
      gemm: The quantizers of the leg.
      labels: The axes of the operation.
      leg: The leg.
      shapes: Shapes of `lhs` and `rhs`, whichever the leg.
      wide: The dtype of the reference; float64 is always emulated.
      device: Where it is to run; the first device of this process if None.

    Returns:
      The plan, and a reason, empty where nothing faster was asked for.

    Raises:
      ValueError: If `implementation` is "pallas" and the device has no such kernels.
    """
    device = Device.current() if device is None else device
    by_kernels = implementation in BY_KERNELS
    if implementation == "pallas":
        _need_kernels(device)
    against = _against(implementation, gemm, labels, leg, wide)
    if by_kernels and leg == "fwd" and against == UNQUANTIZED:
        return _weights(implementation, gemm, labels, shapes)
    if against:
        return REFERENCE, "" if implementation == "reference" else against
    return _faster(implementation, gemm, labels, leg, shapes, device)


def _faster(
    implementation: Implementation,
    gemm: Gemm,
    labels: Any,
    leg: Leg,
    shapes: tuple[Shape, Shape],
    device: Device,
) -> tuple[Plan, str]:
    """What is chosen of two plain Quantizers, and why nothing faster."""
    operands, sizes = _operands(labels, leg, shapes)
    types: tuple[QType, QType] = (gemm.lhs.qtype, gemm.rhs.qtype)  # type: ignore[union-attr]
    why = ""
    if implementation == "xla":
        native, why = _native(types, device, sizes[2], labels.leg(leg), operands)
        if native is not None:
            return native, why
    if implementation is None:
        if min(sizes) < AUTOMATIC:
            return REFERENCE, f"fewer than {AUTOMATIC} indices in a group of axes"
        if narrow.fits_int8(types, sizes[2]):
            return Plan("int8", outside=True), ""
    found, reason = _bfloat16(types, device, labels, sizes)
    by_kernels = implementation in BY_KERNELS
    if by_kernels and not reason and not found.outside:
        return _tiled(implementation, found, gemm, labels.leg(leg), operands)
    return found, "; ".join(x for x in (why, reason) if x)


def _against(implementation: Implementation, gemm: Gemm, labels: Any, leg: Leg, wide: Any) -> str:
    """What makes the reference the only way; empty where there are others."""
    if implementation == "reference":
        return "asked for"
    if wide != jnp.float32:
        return "float64 operands"
    if not _is_product(labels, leg):
        return "no single matrix product"
    if not (gemm.accumulator is None and gemm.multiplier is None and gemm.sampling is None):
        return "sums or products of its own"
    quantizers = (gemm.lhs, gemm.rhs)
    if any(q is None for q in quantizers):
        return UNQUANTIZED
    if not all(isinstance(q, Quantizer) and not q.calibration.stateful for q in quantizers):
        return "an operand that is no plain Quantizer"
    # Those of the types alone: what makes the numbers, or holds them, may be traced.
    types = [q.qtype for q in quantizers]  # type: ignore[union-attr]
    if not all(isinstance(leaf, int | float) for leaf in jax.tree.leaves(types)):
        return "bits that are traced"
    return ""


def _need_kernels(device: Device) -> None:
    lack = device.lacks("pallas")
    if lack:
        raise ValueError(
            f"`Policy.implementation` is 'pallas', but {lack}. Ask for None or 'xla' here, or for "
            "'pallas_interpreted' to run the kernels step by step, which is slow."
        )


def _weights(
    implementation: Implementation, gemm: Gemm, labels: Any, shapes: tuple[Shape, Shape]
) -> tuple[Plan, str]:
    """A product with packed weights, or the reference and why it must be that."""
    why = kernels.only_weights(gemm, labels, shapes)
    interpreted = implementation == "pallas_interpreted"
    return (REFERENCE, why) if why else (Plan("weights", interpreted=interpreted), "")


def _tiled(
    implementation: Implementation,
    otherwise: Plan,
    gemm: Gemm,
    axes: tuple[OperandAxes, OperandAxes],
    shapes: tuple[Shape, Shape],
) -> tuple[Plan, str]:
    """Operands quantized by a kernel where both can be, else `otherwise`, and why."""
    for quantizer, own, shape in zip((gemm.lhs, gemm.rhs), axes, shapes):
        why = pallas.tiled(quantizer, shape, own.contract, own.batch)
        if why:
            return otherwise, why
    return Plan("pallas", interpreted=implementation == "pallas_interpreted"), ""


def _native(
    types: tuple[QType, QType],
    device: Device,
    contracted: int,
    axes: tuple[OperandAxes, OperandAxes],
    shapes: tuple[Shape, Shape],
) -> tuple[Plan | None, str]:
    """A product of the device's own, or None and why there is none, and what is to be said."""
    if blockscaled.accepts(types, axes, shapes):
        lack = device.lacks("scaled")
        return (None, lack) if lack else (Plan("scaled"), "")
    if not all(narrow.is_outside(t) for t in types):
        return None, "scales change along the contracted axes"
    if narrow.fits_int8(types, contracted):
        small = all(t.format.width <= 4 for t in types) and not device.lacks("int4")
        return Plan("int4" if small else "int8", outside=True), ""
    if all(narrow.is_float8(t) for t in types):
        lack = device.lacks("float8")
        widened = "which XLA's CPU widens to float32" if device.platform == "cpu" else ""
        return (None, lack) if lack else (Plan("float8", outside=True), widened)
    return None, "no product of these types"


def _bfloat16(
    types: tuple[QType, QType], device: Device, labels: Labelling, sizes: tuple[int, int, int]
) -> tuple[Plan, str]:
    """A product of bfloat16 operands, or the reference and why it must be that."""
    power, outside = (all(map(test, types)) for test in (narrow.is_power, narrow.is_outside))
    if not all(narrow.fits_bfloat16(t) for t in types) or not (power or outside):
        return REFERENCE, "values that are no bfloat16"
    # XLA's CPU has no bfloat16 products of vectors and not all batched ones, and finds out
    # when it is too late.
    shared = any(label in labels.rhs and label in labels.out for label in labels.lhs)
    if min(sizes) < SMALLEST or (shared and device.platform == "cpu"):
        return REFERENCE, "bfloat16 products need matrices"
    return Plan("bfloat16", outside=not power), ""


def _operands(
    labels: Labelling, leg: Leg, shapes: tuple[Shape, Shape]
) -> tuple[tuple[Shape, Shape], tuple[int, int, int]]:
    """Shapes of the operands of a leg, and how many indices its groups of axes have.

    The groups are the axes that only the first operand has, only the second, and contracted.
    """
    sizes = dict(zip(labels.lhs, shapes[0])) | dict(zip(labels.rhs, shapes[1]))
    first, second, result = labels.roles(leg)

    def count(group: list) -> int:
        return math.prod(sizes[label] for label in group)

    counts = (
        count([label for label in first if label not in second]),
        count([label for label in second if label not in first]),
        count([label for label in first if label in second and label not in result]),
    )
    return (tuple(sizes[x] for x in first), tuple(sizes[x] for x in second)), counts


def _is_product(labels: Any, leg: Leg) -> bool:
    """Whether a leg is one dot product: every label stands in two of its three tensors."""
    if not isinstance(labels, Labelling) or labels.apart:
        return False
    parts = labels.roles(leg)
    if any(len(set(part)) < len(part) for part in parts):
        return False
    return all(sum(label in part for part in parts) >= 2 for label in set().union(*parts))
