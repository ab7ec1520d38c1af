"""The reading of the long form of type names, `format:scale[_zero][_tile[_tile]]`.

The grammar is TensorCast's, that of its branches `main` (`tTsSoOdD`) and `triton` (`tTsSnNmM`,
`multi_`, two tiles) together: a tile is `tTsSoOnNmMdD`.

- `tT`: elements that share a scale, 0 for the whole axis. The first tile runs along the argument
  `axis` or the contracted axes, the second along the others.
- `sS`: subtiles of S elements. With `oO`, each has a power of two of O bits below the scale of the
  tile. Without, they share that scale, and only a codebook, whose tables are chosen per subtile,
  takes notice of them.
- `nNmM`: of every M elements only the N of largest magnitude are kept (`Sparsity`). T counts all
  elements. (TensorCast's own casts read T as those that are kept where they emulate, as all where
  they store: its `t32n2m4` of the first kind is `t64n2m4` here.)
- `dD`: the axis that this tile runs along, whatever the use. (Without it TensorCast means the
  last; here it is what the use says.)

`multi_` before the scale puts a scale of the whole tensor above it.
"""

import re
from typing import Any, NamedTuple

from qjax import formats
from qjax.formats import Float, Format, PowerOfTwo
from qjax.qtypes._qtype import QType
from qjax.qtypes._sparsity import Sparsity
from qjax.tiling import Tile

TILE = re.compile(r"t(\d+)(?:s(\d+))?(?:o(\d+))?(?:n(\d+)m(\d+))?(?:d(-?\d+))?")
SHAPE = "format:scale[_zero][_tile], for instance 'e2m1fnuz:e8m0_t32'"


class Tiles(NamedTuple):
    """What the tiles of a name say: of the scale, of the subtiles, and of the elements."""

    whole: Tile
    sub: Tile | None
    offset: int
    sparsity: Sparsity | None


def parse(text: str) -> QType:
    """Returns the type of a name in the long form.

    Raises:
      ValueError: If the name does not follow the grammar or its parts do not fit together.
    """
    number, _, rest = text.partition(":")
    parts = rest.replace("float8_", "").split("_")
    multi = parts[0] == "multi"
    parts = parts[1:] if multi else parts
    tiles = [part for part in parts if TILE.fullmatch(part)]
    specs = [_number(part) for part in parts[: len(parts) - len(tiles)]]
    if not specs or parts[len(specs) :] != tiles or len(tiles) > 2 or len(specs) > 3:
        raise _wrong(
            text, "has not one scale or two, then perhaps a zero point, then at most two tiles"
        )
    format, lie = _number(number), _tiles(tiles, text)
    scales, zero = _roles(format, specs, multi, text)
    scale = QType(scales[-1], Tile(), None if len(scales) == 1 else QType(scales[0]))
    if lie.sub is None:
        return QType(format, lie.whole, scale, zero, sparsity=lie.sparsity)
    if zero is not None or (lie.offset and not isinstance(scales[-1], PowerOfTwo)):
        raise _wrong(text, "has subtiles, whose offsets (oN) need one power-of-two scale")
    step = PowerOfTwo(lie.offset, bias=(1 << lie.offset) - 1, nan=False)
    inner = QType(step, lie.whole, scale)
    return QType(format, lie.sub, inner, sparsity=lie.sparsity)


def _roles(
    format: Format, specs: list[Format], multi: bool, text: str
) -> tuple[list[Format], QType | None]:
    """Returns the scales, that of the tensor first where there is one, and the zero point."""
    signed = getattr(format, "signed", True)
    scales, zero = (specs, None) if signed else (specs[:-1], specs[-1])
    if multi and len(scales) != 2:
        raise _wrong(text, "has 'multi_' without two scales, the tensor's and the tile's")
    if (signed and not multi and len(scales) > 1) or not scales:
        need = "signed elements take none" if signed else "unsigned elements need one"
        raise _wrong(text, f"has {len(specs) - 1} zero points, but {need}")
    if zero is not None and any(isinstance(part, PowerOfTwo) for part in specs):
        raise _wrong(text, "has a zero point, which goes with a float scale and is itself no power")
    return scales, None if zero is None else QType(zero)


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


def _tiles(tiles: list[str], text: str) -> Tiles:
    """Returns what the tiles of a name say."""
    matches = [match for tile in tiles if (match := TILE.fullmatch(tile))]
    found: list[list[Any]] = [[p and int(p) for p in match.groups()] for match in matches]
    if not found:
        return Tiles(Tile(), None, 0, None)
    extents = [part[0] or None for part in found] + [1] * (2 - len(found))
    subtiles, axes = ([part[n] for part in found] + [None] * (2 - len(found)) for n in (1, 5))
    offsets = {part[2] for part in found} - {None}
    sparse = [(n, part[3], part[4]) for n, part in enumerate(found) if part[3] is not None]
    if len(offsets) > 1 or len(sparse) > 1:
        raise _wrong(text, "says oN or nNmM twice; once is enough")
    offset = offsets.pop() if offsets else None
    if offset is not None and (subtiles == [None, None] or not 1 <= offset <= 8):
        raise _wrong(text, f"has an offset of {offset} bits; give 1 to 8, to a subtile (tTsSoO)")
    sparsity = Sparsity(sparse[0][1], sparse[0][2], across=sparse[0][0] == 1) if sparse else None
    if subtiles == [None, None]:
        return Tiles(Tile(*extents, *axes), None, 0, sparsity)
    for whole, part in zip(extents, subtiles):
        if part is not None and (whole is None or part < 1 or whole % part):
            raise _wrong(text, f"has subtiles of {part} that do not divide its tile")
    # Where a subtile is not said, it is as long as the tile.
    subtiles = [part or whole for whole, part in zip(extents, subtiles)]
    ratios = [
        1 if whole is None else whole // (part or 1) for whole, part in zip(extents, subtiles)
    ]
    return Tiles(Tile(*ratios), Tile(*subtiles, *axes), offset or 0, sparsity)
