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
    scale = qtype.scale
    if scale is None:
        return qtype.format.name if qtype.sparsity is None else repr(qtype)
    if _is_block_float(qtype):
        return f"bfp{qtype.format.width}"
    steps, offset, scales = None, 0, _scales(scale)
    if scales is None and isinstance(scale.format, PowerOfTwo) and _is_offset(scale.format):
        steps, offset, scales = scale.tile, scale.format.exponent_bits, _scales(scale.scale)
    tiles = _tiles(qtype.tile, qtype.sparsity, steps, offset)
    if scales is None or tiles is None:
        return repr(qtype)
    zero = "" if qtype.zero is None else f"_{_number(qtype.zero.format)}"
    return f"{_number(qtype.format)}:{scales}{zero}{tiles}"


def _scales(scale: Any) -> str | None:
    """Writes a scale alone, or one below that of the tensor; None where it is another."""
    if scale.scale is None:
        return _number(scale.format)
    if scale.tile == Tile() and scale.scale.scale is None:
        return f"multi_{_number(scale.scale.format)}_{_number(scale.format)}"
    return None


def _is_block_float(qtype: Any) -> bool:
    """Whether mantissas below one share a power of two in blocks of the usual 64."""
    fraction = isinstance(qtype.format, Fixed) and qtype.format.integer_bits == 0
    plain = fraction and qtype.format == Fixed(0, qtype.format.fraction_bits)
    plain = plain and qtype.sparsity is None
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


def _tiles(tile: Tile, sparsity: Any, steps: Tile | None, offset: int) -> str | None:
    """Writes tiles, or subtiles of which `steps` make one; None where no words exist for them."""
    if tile == Tile() and steps is None and sparsity is None:
        return ""
    parts, extents, counts = [], (tile.contract, tile.keep), (1, 1)
    if steps is not None:
        if steps.contract is None or steps.keep is None:
            return None
        counts = (steps.contract, steps.keep)
    # Subtiles of the size of the tile are said once.
    said = steps is None or counts != (1, 1)
    if not said and extents == (None, None):
        return None
    for n, (extent, count) in enumerate(zip(extents, counts)):
        if extent is None and count > 1:
            return None
        part = f"_t{(extent or 0) * count}"
        if count > 1 or (not said and extent is not None):
            said = True
            part += f"s{extent}" + (f"o{offset}" if offset else "")
            offset = 0
        if sparsity is not None and sparsity.across == (n == 1):
            part += f"n{sparsity.kept}m{sparsity.group}"
        axis = (tile.axis, tile.across)[n]
        parts.append(part if axis is None else f"{part}d{axis}")
    return parts[0] if parts[1] == "_t1" else "".join(parts)
