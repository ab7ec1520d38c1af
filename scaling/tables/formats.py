"""Number formats by name, as a results table writes them: ``FP8-E4M3@128`` to (E, M, B, bits).

This parser only counts bits for scaling laws; it rounds nothing and knows no special codes. The
grammar, case-insensitive:

    name[-gB | @B | @channel | @tensor]
    name: BF16 FP16 FP32 TF32 FPn ExMy FPn-ExMy INTn MXFPn[-ExMy] MXINTn NVFP4 TERNARY BINARY
"""

import math
import re
from dataclasses import dataclass

#: Elements behind one scale where the scale is per channel, as in Sun et al. 2025.
CHANNEL_BLOCK = 2.0**13.1567

_FLOATS = {
    "FP32": (8, 23),
    "TF32": (8, 10),
    "BF16": (8, 7),
    "FP16": (5, 10),
    "FP8": (4, 3),
    "FP6": (3, 2),
    "FP4": (2, 1),
    "FP3": (1, 1),
}
_LEVELS = {"TERNARY": 3, "BINARY": 2}
_BLOCK_SUFFIX = re.compile(r"(?:@|-G)(\d+|CHANNEL|TENSOR)$")
_EXPONENT_MANTISSA = re.compile(r"(?:(?:MX)?FP\d+[-_])?E(\d+)M(\d+)$")


@dataclass(frozen=True, kw_only=True)
class NumberFormat:
    """What a format name says.

    Args:
        name: the name as it was written.
        E: exponent bits (0 for integers); None for formats that are neither integer nor float.
        M: mantissa bits without the sign; None likewise.
        bits: bits of one element, the sign included.
        B: elements that share one scale: a number, "channel", "tensor", or None where unsaid.
        scale_bits: bits of one scale.
    """

    name: str
    E: int | None
    M: int | None
    bits: float
    B: float | str | None = None
    scale_bits: int = 16

    @property
    def block(self) -> float:
        """Elements behind one scale as a number; NaN for tensor-wise or unsaid."""
        if self.B == "channel":
            return CHANNEL_BLOCK
        return float(self.B) if isinstance(self.B, int | float) else math.nan

    @property
    def effective_bits(self) -> float:
        """Bits per element with the share of the scale: bits + scale_bits / B."""
        return self.bits + (self.scale_bits / self.block if isinstance(self.B, int | float) else 0)


def effective_bits(
    bits: float, block: float = math.inf, scale_bits: float = 16, outliers: float = 0.0
) -> float:
    """Returns bits per element: k + scale_bits/B + p (16 - k).

    Args:
        bits: bits k of one element.
        block: elements B behind one scale.
        scale_bits: bits of one scale.
        outliers: fraction p of the elements that are kept in 16 bits.

    Dettmers & Zettlemoyer 2023, arXiv:2212.09720.
    """
    return bits + scale_bits / block + outliers * (16 - bits)


def parse_format(text: str) -> NumberFormat:
    """Parses the name of a number format.

    Args:
        text: such as "BF16", "FP8-E4M3@128", "INT4-g128", "MXFP4", "NVFP4" or "TERNARY".

    Returns:
        Its exponent, mantissa, element and scale bits, and its block.

    Raises:
        ValueError: the name is not understood; the message lists the grammar.
    """
    name = text.strip().upper()
    match = _BLOCK_SUFFIX.search(name)
    block: float | str | None = None
    if match:
        name = name[: match.start()]
        word = match.group(1)
        block = word.lower() if word.isalpha() else int(word)
        if block == 0:
            raise ValueError(f"format {text!r}: a block has at least one element.")
    scale_bits = 16
    if name.startswith("MX"):
        block, scale_bits = block or 32, 8
        name = name[2:]
    elif name.startswith("NVFP4"):
        block, scale_bits = block or 16, 8
        name = name[2:]
    e, m, bits = _element(name, text)
    return NumberFormat(name=text, E=e, M=m, bits=bits, B=block, scale_bits=scale_bits)


def _element(name: str, text: str) -> tuple[int | None, int | None, float]:
    if name in _LEVELS:
        return None, None, math.log2(_LEVELS[name])
    if name in _FLOATS:
        e, m = _FLOATS[name]
        return e, m, e + m + 1
    match = _EXPONENT_MANTISSA.match(name)
    if match:
        e, m = int(match.group(1)), int(match.group(2))
        width = re.match(r"FP(\d+)", name)
        if width and int(width.group(1)) != e + m + 1:
            raise ValueError(f"format {text!r}: E{e}M{m} has {e + m + 1} bits with its sign.")
        return e, m, e + m + 1
    match = re.match(r"INT(\d+)$", name)
    if match and int(match.group(1)) > 0:
        bits = int(match.group(1))
        return 0, bits - 1, bits
    raise ValueError(
        f"format {text!r} is not understood; write BF16, FP16, FP8-E4M3, E5M2, INT4, MXFP4, NVFP4, "
        "TERNARY or BINARY, with -g128, @128, @channel or @tensor behind it."
    )
