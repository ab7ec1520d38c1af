"""An operand that was encoded earlier, in the place of the quantizer that would encode it."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from qjax import calibration, rounding, tiling
from qjax._typing import Array, Axes, DTypeLike, Key
from qjax.qtensor import QTensor
from qjax.quantizer._quantizer import Quantizer
from qjax.tiling import Layout


class Stored(Quantizer):
    """A Quantizer that answers with the tensor it holds, whatever it is asked to quantize.

    A contraction that is given one in a slot of its policy computes bit for bit what it
    computes with the Quantizer that made the tensor, and rounds nothing.

    Attributes:
      tensor: The operand as it was encoded for this very contraction.
    """

    tensor: QTensor

    def __init__(self, tensor: QTensor):
        # How the tensor was made does not matter any more: these ask for no key and no state.
        made = {"calibration": calibration.AbsMax(), "rounding": rounding.NEAREST_EVEN}
        for name, value in {"qtype": tensor.qtype, "scale": None, **made, "tensor": tensor}.items():
            object.__setattr__(self, name, value)

    def cast(
        self,
        x: Array,
        *,
        contract: Axes | None = None,
        batch: Axes = (),
        key: Key | None = None,
        dtype: DTypeLike | None = None,
    ) -> Array:
        """Returns the stored values; the arguments are those of `Quantizer.cast`.

        Raises:
          ValueError: If the tiles do not lie as this contraction needs them.
        """
        tensor = self.encode(x, contract=contract, batch=batch)
        return tensor.decode(x.dtype if dtype is None else dtype)

    def encode(
        self, x: Array, *, contract: Axes | None = None, batch: Axes = (), key: Key | None = None
    ) -> QTensor:
        """Returns the tensor; arguments and errors as for `cast`."""
        needed = tiling.resolve(x.shape, self.qtype.tile, contract, batch)
        own = self.tensor.layout
        mapped = self.tensor.basis and _contracted(needed) != _contracted(own)
        if _tiles(needed) != _tiles(own) or mapped:
            raise ValueError(
                f"A contraction over axes {needed.contract} of an operand of shape {x.shape} was "
                f"given {self.tensor!r}, whose tiles reach {own.tiles} along {own.merged}, of "
                f"which axes {own.contract} are contracted; this one needs {needed.tiles} along "
                f"{needed.merged} and contracts {needed.contract}. Encode the operand along the "
                "axes that are contracted."
            )
        return self.tensor

    def units(
        self,
        x: Array,
        *,
        contract: Axes | None = None,
        batch: Axes = (),
        key: Key | None = None,
        dtype: DTypeLike = jnp.float32,
    ) -> tuple[Array, Array | None]:
        """Returns the stored values before their scale, and the scales, as `Quantizer.units`.

        Raises:
          ValueError: If the tiles do not lie as this contraction needs them.
        """
        tensor = self.encode(x, contract=contract, batch=batch)
        values = self.qtype.format.load(tensor.qvalue).astype(dtype)
        return values, None if tensor.scale is None else tensor.scale.decode(jnp.float32)

    def __repr__(self) -> str:
        return f"Stored({self.tensor!r})"


def _contracted(layout: Layout) -> set[int]:
    return {axis for axis in layout.contract if layout.merged[axis] > 1}


def _tiles(layout: Layout) -> Layout:
    # Which axes are contracted matters only through the tiles.
    return dataclasses.replace(layout, contract=(), batch=())


def _unflatten(_: None, children: tuple[Any]) -> Stored:
    # The tensor may be a placeholder: only one that knows its type can say it.
    (tensor,) = children
    if isinstance(tensor, QTensor):
        return Stored(tensor)
    empty = object.__new__(Stored)
    object.__setattr__(empty, "tensor", tensor)
    return empty


jax.tree_util.register_pytree_node(Stored, lambda stored: ((stored.tensor,), None), _unflatten)
