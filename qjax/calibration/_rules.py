"""How a power-of-two scale is drawn from a bound: integer arithmetic on exponent bits."""

from qjax._typing import Array
from qjax.formats import STEP, Format

# What each rule does is said in `exponent_of`. "search" tries neighbours of "floor" and keeps the
# exponent with the least squared error; the Quantizer does so.
RULES = ("floor", "ceil", "rceil", "even", "midmax", "topbinade", "bfp", "search")


def exponent_of(bound: Array, format: Format, rule: str) -> Array:
    """Returns the exponents of power-of-two scales.

    With the bound `a` and the format's largest value `m * 2**e`, 1 <= m < 2, the exponent is
    `floor(log2(a)) - e`, one more where the fraction of `a` exceeds what `rule` says:

    - "floor" (OCP) and "search": never. "ceil": any fraction.
    - "rceil" and "topbinade": the fraction of the largest value, so that nothing saturates.
    - "midmax": half-way from the largest value to the next power of two.
    - "even": the bound, rounded to the format's mantissa, reaches the next power of two.
    - "bfp": any fraction, and one less throughout: `ceil(log2(a)) - e - 1`.

    Args:
      bound: int32 extended magnitude patterns.
      format: The format of the elements.
      rule: One of `RULES`.
    """
    limit = format.max_pattern
    fraction = limit & (STEP - 1)
    carry = {
        "floor": 0,
        "search": 0,
        "ceil": STEP - 1,
        "rceil": STEP - 1 - fraction,
        "topbinade": STEP - 1 - fraction,
        "midmax": STEP - 1 - ((fraction + STEP) >> 1),
        "even": _half(format) if rule == "even" else 0,
        "bfp": -1,
    }[rule]
    bound = bound if isinstance(carry, int) and carry == 0 else bound + carry
    return (bound >> 23) - (limit >> 23)


def _half(format: Format):
    """Returns half a unit in the last place of the format's mantissa, as a pattern."""
    grid = format.grid
    # An evenly spaced grid has one digit before the fraction.
    return STEP >> (grid.mantissa_bits + 1 - int(grid.uniform))
