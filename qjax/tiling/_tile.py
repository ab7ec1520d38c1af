"""How far one scale reaches, whatever it is used for."""

import dataclasses
import math

import jax


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, repr=False)
class Tile:
    """How far one scale reaches along contracted and kept axes; None is the whole extent.

    Attributes:
      contract: Elements along the contracted axes, flattened in order.
      keep: Elements along the kept axes, flattened in order.
      axis: The axis that tiles run along wherever they are used, as `contract` counts them. None
        leaves it to the use. A use that contracts another axis is refused.
      across: The one kept axis that tiles reach along, as `keep` counts them; None is all of them.
    """

    contract: int | None = None
    keep: int | None = None
    axis: int | None = None
    across: int | None = None

    def __post_init__(self):
        for name in ("contract", "keep"):
            extent = getattr(self, name)
            if extent is not None and (not isinstance(extent, int) or extent < 1):
                raise ValueError(
                    f"`Tile` was asked for {name}={extent!r}. "
                    "Give a whole number of elements, at least 1, or None for the whole extent."
                )
        for name in ("axis", "across"):
            axis = getattr(self, name)
            if axis is not None and not isinstance(axis, int):
                raise ValueError(
                    f"`Tile` was asked for {name}={axis!r}. Give the number of an axis, or None to "
                    "leave it to the use."
                )

    @property
    def elements(self) -> float:
        """Elements that share a scale; infinity where an extent is whole."""
        extents = (self.contract, self.keep)
        return math.inf if None in extents else float(math.prod(e for e in extents if e))

    def __repr__(self) -> str:
        fixed = [f"{n}={v}" for n in ("axis", "across") if (v := getattr(self, n)) is not None]
        return f"Tile({', '.join([f'contract={self.contract}', f'keep={self.keep}', *fixed])})"
