"""How the name of a type is written: a given name where it has one, else the long form.

The reading of names is `_grammar.py`; which types have names of their own says the catalogue.
"""

from collections.abc import Mapping
from typing import Any

from qjax import formats
from qjax.formats import Fixed, Float, Format, PowerOfTwo
from qjax.tiling import Tile

# Names of whole types, as the catalogue gives them; the first name given to a type is its own.
_given: dict[Any, str] = {}


def give_names(types: Mapping[str, Any]) -> None:
    """Gives names to types."""
    for name, qtype in types.items():
        _given.setdefault(qtype, name)


def name_of(qtype: Any) -> str:
    """Returns the shortest name that `parse` reads back, the `repr` where no words exist for it."""
    if qtype in _given:
        return _given[qtype]
    scale, tile = qtype.scale, qtype.tile
    if scale is None:
        return qtype.format.name
    number = _number(qtype.format)
    if scale.scale is None:
        if _is_block_float(qtype):
            return f"bfp{qtype.format.width}"
        zero = "" if qtype.zero is None else f"_{_number(qtype.zero.format)}"
        return f"{number}:{_number(scale.format)}{zero}{_tile(tile)}"
    outer, step = scale.scale, scale.format
    if outer.scale is None and scale.tile == Tile():
        return f"{number}:multi_{_number(outer.format)}_{_number(step)}{_tile(tile)}"
    if (
        isinstance(step, PowerOfTwo)
        and _is_offset(step)
        and tile.contract
        and scale.tile.contract
        and tile.keep == 1
    ):
        whole = tile.contract * scale.tile.contract
        bits = f"o{step.exponent_bits}" if step.exponent_bits else ""
        return f"{number}:{_number(outer.format)}_t{whole}s{tile.contract}{bits}"
    return repr(qtype)


def _is_block_float(qtype: Any) -> bool:
    """Whether mantissas below one share a power of two in blocks of the usual 64."""
    fraction = isinstance(qtype.format, Fixed) and qtype.format.integer_bits == 0
    plain = fraction and qtype.format == Fixed(0, qtype.format.fraction_bits)
    shared = qtype.scale.format == formats.E8M0FNU and qtype.tile == Tile(64, 1)
    return plain and shared and qtype.zero is None


def _is_offset(format: PowerOfTwo) -> bool:
    """Whether these are the powers 1, 1/2, 1/4 ... as subtiles have them."""
    return format.top_exponent == 0 and not (format.signed or format.zero or format.nan)


def _number(format: Format) -> str:
    """Writes a format as TensorCast does."""
    if isinstance(format, PowerOfTwo) and format.nan and format == PowerOfTwo(format.exponent_bits):
        return f"e{format.exponent_bits}m0"
    if isinstance(format, PowerOfTwo) and _is_offset(format):
        return f"snap{1 << format.exponent_bits}"
    if isinstance(format, Float) and format.family in ("fnuz", "inuz"):
        plain = ((1 << format.exponent_bits) >> 1) - 1
        bias = "" if format.bias == plain else f"b{format.bias}"
        return f"e{format.exponent_bits}m{format.mantissa_bits}{bias}{format.family}"
    if format == formats.E4M3:
        return "e4m3"
    return format.name


def _tile(tile: Tile) -> str:
    if tile == Tile():
        return ""
    first = f"_t{tile.contract or 0}"
    return first if tile.keep == 1 else f"{first}_t{tile.keep or 0}"
