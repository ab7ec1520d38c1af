"""To and from qwix's QArray, for models that are served with it."""

from typing import Any

import jax.numpy as jnp

from qjax import formats
from qjax._typing import Array
from qjax.qtensor._tensor import QTensor, plain
from qjax.qtypes import FLOAT32_SCALE, QType
from qjax.tiling import Layout, Tile


def to_qwix(tensor: QTensor) -> Any:
    """Returns a qwix QArray with the same values.

    Needs qwix. Integers, fixed point, floats with a dtype of 4, 8 or 16 bits, and NF4 have a
    counterpart there. Scales become float32: where they have scales of their own, their product
    is rounded once.

    Raises:
      ValueError: If the format has no counterpart, or the tensor a zero point or a transform.
    """
    from qwix import QArray

    found = _counterpart(tensor)
    if tensor.scale is None or tensor.zero_point is not None or tensor.basis or found is None:
        raise ValueError(
            f"`to_qwix` was asked to convert {tensor!r}. It converts scaled tensors without zero "
            "point or transform whose format is NF4, or integers or floats of 4, 8 or 16 bits "
            "that have a NumPy or ml_dtypes dtype; decode others."
        )
    codes, name, step = found
    scale = tensor.scale.decode(jnp.float32) * jnp.float32(step)
    return QArray(qvalue=codes, scale=scale, zero_point=None, qtype=name)


def _counterpart(tensor: QTensor) -> tuple[Array, Any, float] | None:
    """Codes as qwix holds them, the name of their type, and the value of one; None for others."""
    format = tensor.qtype.format
    if format == formats.NF4:
        return tensor.qvalue.astype(jnp.uint4), "nf4", 1.0
    if format.width not in (4, 8, 16):
        return None
    if isinstance(format, formats.Int | formats.Fixed):
        dtype = jnp.dtype(f"{'int' if format.signed else 'uint'}{format.width}")
        return tensor.qvalue.astype(dtype), dtype, getattr(format, "step", 1.0)
    if format.dtype is None:
        return None
    return format.load(tensor.qvalue).astype(format.dtype), jnp.dtype(format.dtype), 1.0


def from_qwix(array: Any) -> QTensor:
    """Returns the QTensor of a symmetric qwix QArray; `decode` gives the dtype of its scales.

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
    format = _format_of(array)
    extent = None if all(tiles[i] == shape[i] for i in contract) else max(tiles)
    qtype = QType(format, Tile(extent, 1), FLOAT32_SCALE)
    order = tuple(range(len(shape)))
    layout = Layout(shape, order, shape, tiles, contract)
    inner = Layout(scale.shape, order, scale.shape, scale.shape, contract)
    stored = plain(scale.astype(jnp.float32), FLOAT32_SCALE, inner)
    if format == formats.NF4:
        qvalue = codes.astype(format.storage)
    else:
        qvalue = format.store(codes.astype(jnp.float32))
    dtype = scale.dtype.name if scale.dtype in (jnp.bfloat16, jnp.float16) else "float32"
    return QTensor(qvalue, stored, None, qtype, layout, dtype)


def _format_of(array: Any) -> formats.Format:
    """What the codes of a QArray are: those of most of its types are numbers of their dtype."""
    if array.qtype == "nf4":
        return formats.NF4
    dtype = jnp.dtype(array.qvalue.dtype)
    if jnp.issubdtype(dtype, jnp.signedinteger):
        return formats.Int(jnp.iinfo(dtype).bits, narrow=False)
    return formats.parse(dtype.name)
