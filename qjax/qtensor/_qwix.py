"""To and from qwix's QArray, for models that are served with it."""

from typing import Any

import jax.numpy as jnp

from qjax import formats
from qjax.qtensor._tensor import QTensor, plain
from qjax.qtypes import FLOAT32_SCALE, QType
from qjax.tiling import Layout, Tile


def to_qwix(tensor: QTensor) -> Any:
    """Returns a qwix QArray with the same values; scales of all levels become one float32.

    Needs qwix. Only formats that have a dtype of whole bytes, and tables of four bits or more,
    have a counterpart there.

    Raises:
      ValueError: If the format has no dtype, or the tensor a zero point or a transform.
    """
    from qwix import QArray

    format = tensor.qtype.format
    other = tensor.zero_point is not None or bool(tensor.basis)
    if tensor.scale is None or other or format.dtype is None:
        raise ValueError(
            f"`to_qwix` was asked to convert {tensor!r}. It converts scaled tensors without zero "
            "point or transform whose format has a NumPy or ml_dtypes dtype; decode others."
        )
    values = format.load(tensor.qvalue)
    return QArray(
        qvalue=values.astype(format.dtype), scale=tensor.scale.decode(jnp.float32), zero_point=None
    )


def from_qwix(array: Any) -> QTensor:
    """Returns the QTensor of a symmetric qwix QArray with float scales.

    Raises:
      ValueError: If it has a zero point, or scales do not divide its shape.
    """
    codes, scale = array.qvalue, array.scale
    if getattr(array, "zero_point", None) is not None:
        raise ValueError(
            "`from_qwix` was given an array with a zero point. Give a symmetric one, or quantize "
            "its decoded values."
        )
    shape = codes.shape
    if len(scale.shape) != len(shape) or any(n % s for n, s in zip(shape, scale.shape)):
        raise ValueError(
            f"`from_qwix` was given scales of shape {scale.shape} for codes of shape {shape}. "
            "Give one scale per whole tile."
        )
    tiles = tuple(n // s for n, s in zip(shape, scale.shape))
    contract = tuple(i for i, (n, t) in enumerate(zip(shape, tiles)) if t > 1)
    name = jnp.dtype(codes.dtype).name
    format = formats.Int(8, narrow=False) if name == "int8" else formats.parse(name)
    extent = None if all(tiles[i] == shape[i] for i in contract) else max(tiles)
    qtype = QType(format, Tile(extent, 1), FLOAT32_SCALE)
    order = tuple(range(len(shape)))
    layout = Layout(shape, order, shape, tiles, contract)
    inner = Layout(scale.shape, order, scale.shape, scale.shape, contract)
    stored = plain(scale.astype(jnp.float32), FLOAT32_SCALE, inner)
    qvalue = format.store(codes.astype(jnp.float32))
    return QTensor(qvalue, stored, None, qtype, layout)
