"""How dense arithmetic would be in hardware: a count of one-bit adders, no synthesis.

A unit sums a block of products of integers, turns the sum into a float, and adds that to a
float32 accumulator; it also converts its result back to the shared exponent of an operand. What is
done once per block is divided by the block. Floats are units of one product with a shift of its
own. The counts say which of two designs is denser and where more of a block no longer helps; real
areas depend on what a synthesis tool makes of them.
"""

import dataclasses
import math

MANTISSA, EXPONENT = 24, 8  # Of the float32 accumulator, hidden bit included.


@dataclasses.dataclass(frozen=True)
class Area:
    """One-bit adders of a unit, for one multiplication and addition.

    Attributes:
      multiply: Of the multiplier.
      add: Of the share in the sum of a block.
      once: Of the share in what a block needs once: the conversions and the accumulator.
    """

    multiply: float
    add: float
    once: float

    @property
    def total(self) -> float:
        """All together."""
        return self.multiply + self.add + self.once


def block_area(lhs_bits: int, rhs_bits: int, block: int) -> Area:
    """The area of a unit for blocks of integers with shared exponents.

    Args:
      lhs_bits: Of an element of one operand, sign included.
      rhs_bits: Of the other.
      block: Elements that share an exponent.

    Raises:
      ValueError: If there is no such block.
    """
    if block < 1 or min(lhs_bits, rhs_bits) < 2:
        raise ValueError(
            f"`block_area` takes a block of at least 1 and elements of at least 2 bits, but "
            f"{block}, {lhs_bits} and {rhs_bits} came. Give for instance 64, 4 and 4."
        )
    width = lhs_bits + rhs_bits
    levels = math.ceil(math.log2(block)) if block > 1 else 0
    # A level adds half as many numbers as the one before, each a bit longer.
    tree = sum((width + level) * block / 2**level for level in range(1, levels + 1))
    to_float = _shifter(width + levels)
    exponents = 2 * EXPONENT
    from_float = EXPONENT + _shifter(max(lhs_bits, rhs_bits))
    once = to_float + _float_adder(MANTISSA) + exponents + from_float
    return Area(float(lhs_bits * rhs_bits), tree / block, once / block)


def float_area(mantissa_bits: int, exponent_bits: int = EXPONENT) -> Area:
    """The area of a fused product and addition of floats, summed in float32.

    Args:
      mantissa_bits: Stored bits of an operand's mantissa: 23 for float32, 7 for bfloat16.
      exponent_bits: Of an operand.
    """
    digits = mantissa_bits + 1
    wide = max(2 * digits, MANTISSA)
    return Area(float(digits * digits), 0.0, _float_adder(wide) + 2 * exponent_bits)


def density(area: Area, than: Area | None = None) -> float:
    """Operations per area, relative to another unit: by default that of float32.

    References:
      Harma et al. 2022, "Accuracy Booster", arXiv:2211.10737, compares synthesized units so; the
      parts of a unit are those of the authors' hardware model, their sizes are not.
    """
    return (float_area(23) if than is None else than).total / area.total


def _shifter(bits: int) -> float:
    """A shifter by any distance, with the search for the distance."""
    return bits * max(1.0, math.log2(bits))


def _float_adder(bits: int) -> float:
    """Alignment, sum and normalization."""
    return 2 * _shifter(bits) + bits
