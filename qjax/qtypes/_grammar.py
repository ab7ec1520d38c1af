"""The reading of the long form of type names, `format:scale[_zero][_tile]`.

The grammar is TensorCast's. A tile `tTsSoO` has subtiles of S elements, with a power of two of O
bits each below the scale of the tile; without `oO` they share that scale, and only a codebook,
whose tables are chosen per subtile, takes notice of them. Its `dD` is the argument `axis` here.
"""

import re

from qjax import formats
from qjax.formats import Float, Format, PowerOfTwo
from qjax.qtypes._qtype import QType
from qjax.tiling import Tile

TILE = re.compile(r"t(\d+)(?:s(\d+))?(?:o(\d+))?(d-?\d+)?")
SHAPE = "format:scale[_zero][_tile], for instance 'e2m1fnuz:e8m0_t32'"


def parse(text: str) -> QType:
    """Returns the type of a name in the long form.

    Raises:
      ValueError: If the name does not follow the grammar or its parts do not fit together.
    """
    number, _, rest = text.partition(":")
    parts = rest.split("_")
    multi = parts[0] == "multi"
    parts = parts[1:] if multi else parts
    tiles = [part for part in parts if TILE.fullmatch(part)]
    specs = parts[: len(parts) - len(tiles)]
    if not specs or parts[len(specs) :] != tiles or len(tiles) > 2 or len(specs) > 2:
        raise _wrong(text, "has not one scale, then perhaps a zero point, then at most two tiles")
    format, first = _number(number), _number(specs[0])
    tile, subtile, offset = _tile(tiles, text)
    if subtile is not None:
        if len(specs) > 1 or (offset and not isinstance(first, PowerOfTwo)):
            raise _wrong(text, "has subtiles, whose offsets (oN) need one power-of-two scale")
        step = PowerOfTwo(offset or 0, bias=(1 << (offset or 0)) - 1, nan=False)
        assert tile.contract is not None
        inner = QType(step, Tile(tile.contract // subtile, 1), QType(first))
        return QType(format, Tile(subtile, 1), inner)
    if multi:
        if len(specs) != 2:
            raise _wrong(text, "has 'multi_' without two scales, the tensor's and the tile's")
        return QType(format, tile, QType(_number(specs[1]), Tile(), QType(first)))
    signed = getattr(format, "signed", True)
    if signed == (len(specs) == 2):
        need = "signed elements take none" if signed else "unsigned elements need one"
        raise _wrong(text, f"has {len(specs) - 1} zero points, but {need}")
    zero = None if signed else QType(_number(specs[1]))
    return QType(format, tile, QType(first), zero)


def _wrong(text: str, what: str) -> ValueError:
    return ValueError(f"The type name {text!r} {what}. Write {SHAPE}.")


def _number(text: str) -> Format:
    """Reads a format as TensorCast does: a bias that is not written is `2**(X - 1) - 1`."""
    if re.fullmatch(r"e[1-8]m0", text):
        return PowerOfTwo(int(text[1]))
    if text in (names := {f"snap{1 << k}": k for k in range(9)}):
        # The powers 1, 1/2, 1/4 ...: not of TensorCast's.
        return PowerOfTwo(names[text], bias=(1 << names[text]) - 1, nan=False)
    if match := re.fullmatch(r"e(\d)m(\d+)(fnuz|inuz)", text):
        exponent = int(match[1])
        bias = ((1 << exponent) >> 1) - 1
        return Float(exponent, int(match[2]), family=match[3], bias=bias)
    if text in ("e4m3", "e2m1", "e2m3", "e3m2"):
        return Float(int(text[1]), int(text[3]))
    return formats.parse(text)


def _tile(tiles: list[str], text: str) -> tuple[Tile, int | None, int | None]:
    """Returns the tile, the size of subtiles and the bits of their offsets."""
    if not tiles:
        return Tile(), None, None
    matches = [TILE.fullmatch(tile) for tile in tiles]
    extents, subtile, offset = [], None, None
    for match in matches:
        assert match is not None
        if match[4]:
            raise _wrong(text, f"names a dimension ({match[4]}), which is the argument `axis` here")
        extents.append(int(match[1]) or None)
        subtile = int(match[2]) if match[2] else subtile
        offset = int(match[3]) if match[3] else offset
    whole = extents[0]
    if subtile is not None and (whole is None or subtile < 1 or whole % subtile):
        raise _wrong(text, f"has subtiles of {subtile} that do not divide its tile")
    if subtile is not None and len(tiles) > 1:
        raise _wrong(text, "has subtiles in two dimensions; they lie along one")
    if offset is not None and (subtile is None or not 1 <= offset <= 8):
        raise _wrong(text, f"has an offset of {offset} bits; give 1 to 8, to a subtile (tTsSoO)")
    return Tile(whole, extents[1] if len(extents) > 1 else 1), subtile, offset
