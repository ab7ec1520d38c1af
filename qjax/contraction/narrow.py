"""Which types can be multiplied as narrow numbers without losing anything."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from qjax.formats import Choice, Int, PowerOfTwo
from qjax.qtypes import QType


def is_outside(qtype: QType) -> bool:
    """Whether scales are constant along the contracted axes, and single along the others."""
    if qtype.scale is None:
        return True
    plain = qtype.scale.scale is None and qtype.zero is None
    return plain and qtype.tile.contract is None and qtype.tile.keep in (None, 1)


def is_power(qtype: QType) -> bool:
    """Whether scales are powers of two, which any float is multiplied by without rounding."""
    if qtype.zero is not None:
        return False
    scale = qtype.scale
    return scale is None or (isinstance(scale.format, PowerOfTwo) and scale.scale is None)


def fits_int8(types: tuple[QType, QType], contracted: int) -> bool:
    """Whether codes fit int8 and their sums int32, with scales that are outside."""
    formats = [t.format for t in types]
    if not all(isinstance(f, Int) and f.signed and f.bits <= 8 for f in formats):
        return False
    # The lowest code of a type that is not narrowed is its highest magnitude.
    largest = math.prod(2 ** (f.width - 1) for f in formats)
    return all(is_outside(t) for t in types) and contracted * largest < 2**31


def is_float8(qtype: QType) -> bool:
    """Whether the elements are of an eight-bit float that devices multiply."""
    return qtype.format.dtype in (jnp.float8_e4m3fn, jnp.float8_e5m2)


def fits_bfloat16(qtype: QType) -> bool:
    """Whether every element, before its scale, is a bfloat16."""
    table = isinstance(qtype.format, Choice)  # One per tile: its values are made, not looked up.
    return qtype.zero is None and not table and _values_fit(qtype.format)


@functools.lru_cache(maxsize=1024)
def _values_fit(format: Any) -> bool:
    if format.width > 12:
        return False
    with jax.ensure_compile_time_eval():
        values = np.asarray(format.values(), np.float32)
    values = values[np.isfinite(values)]
    return bool(np.all(values.astype(ml_dtypes.bfloat16).astype(np.float32) == values))
