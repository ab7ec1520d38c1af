"""What is known, inside a `jax.shard_map`, of how its devices hold an array.

Known is what JAX checks (`check_vma`, its default). Without that all seems alike.
"""

import math
from typing import Any

import jax

from qjax._typing import Array


def varying(x: Array) -> frozenset[str]:
    """Axes of a mesh along which devices hold different values of `x`."""
    known: Any = jax.typeof(x)
    kind = getattr(known, "manual_axis_type", None)  # Called `vma` in other versions of JAX.
    return known.vma if kind is None else kind.varying


def parts(x: Array, shared: Array) -> int:
    """How many devices hold parts of what `x` is a part of, while `shared` is one for all."""
    return math.prod(jax.lax.axis_size(name) for name in varying(x) - varying(shared))
