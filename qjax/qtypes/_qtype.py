"""What is stored: a format, the tiles that share a scale, and the type of that scale.

`QType` is to `Quantizer` what a dtype is to `astype`. How scales are found is not here
(`qjax.calibration`), nor is rounding.
"""

import dataclasses
from typing import Any

import jax

from qjax import formats
from qjax.formats import Format
from qjax.qtypes import _sparsity, _writing
from qjax.qtypes._sparsity import Sparsity
from qjax.tiling import Tile


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class QType:
    """The type of a quantized tensor. A scale is itself a quantized tensor, so this recurses.

    Attributes:
      format: The format of the elements, or its name.
      tile: The elements that share one scale.
      scale: The type of the scale, or a format, or a format's name; None for none. Its own tile
        runs over the array of scales.
      zero: The type of the zero point, or None for none.
      sparsity: Which elements are stored at all; all of them where None.
    """

    format: Format
    tile: Tile = dataclasses.field(default=Tile(), metadata={"static": True})
    scale: "QType | None" = None
    zero: "QType | None" = None
    sparsity: Sparsity | None = dataclasses.field(
        default=None, kw_only=True, metadata={"static": True}
    )

    def __post_init__(self):
        if isinstance(self.format, str):
            object.__setattr__(self, "format", formats.parse(self.format))
        for part in ("scale", "zero"):
            value = getattr(self, part)
            if isinstance(value, str | Format):
                object.__setattr__(self, part, QType(value))  # type: ignore[arg-type]
        if self.sparsity is not None and isinstance(self.format, Format):
            zero = self.zero.format if isinstance(self.zero, QType) else None
            _sparsity.check(self.sparsity, self.format, self.tile, zero)

    @property
    def bits_per_element(self) -> Any:
        """Bits of one element with its share of scales; a whole extent counts as endless."""
        shared = sum(part.bits_per_element for part in (self.scale, self.zero) if part is not None)
        own = self.format.width
        own = own if self.sparsity is None else self.sparsity.bits(own)
        return own + (self.format.tile_bits + shared) / self.tile.elements

    @property
    def name(self) -> str:
        """The catalogue's name where there is one, else the long form of `parse`."""
        return _writing.name_of(self)

    def __repr__(self) -> str:
        shown = [f for f in dataclasses.fields(self) if f.name != "sparsity" or self.sparsity]
        return f"QType({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in shown)})"
