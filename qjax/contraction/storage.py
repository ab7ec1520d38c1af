"""What an operand of a policy is stored as, whichever kind of operand it is: its name and bits."""

from typing import Any

from qjax.contraction.choosing import Chosen
from qjax.contraction.operands import Gated, Operand
from qjax.contraction.splitting import BitSplit


def stored_name(operand: Any) -> str:
    """The name of an operand's type; those of both parts, or of all choices."""
    if isinstance(operand, BitSplit):
        return f"{stored_name(operand.high)}+{stored_name(operand.low)}"
    if isinstance(operand, Chosen | Gated):
        choices = operand.quantizers if isinstance(operand, Chosen) else operand.choices
        return "|".join(dict.fromkeys(map(stored_name, choices)))
    return operand.qtype.name


def stored_bits(operand: Any) -> float:
    """Stored bits per element of an operand, scales included; the most that may be used."""
    return bits_range(operand)[1]


def bits_range(operand: Any) -> tuple[float, float]:
    """The fewest and the most stored bits per element; alike where nothing varies."""
    if isinstance(operand, BitSplit):
        return (bits := stored_bits(operand.high) + stored_bits(operand.low)), bits
    if isinstance(operand, Chosen):
        bits = [stored_bits(q) for q in operand.quantizers]
        return min(bits), max(bits)
    if isinstance(operand, Operand):
        return operand.widths
    bits = operand.qtype.bits_per_element
    return bits, bits
