"""Names for types that the whole library shares. Nothing else belongs here."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import jax

Array: TypeAlias = jax.Array
Key: TypeAlias = jax.Array
Shape: TypeAlias = tuple[int, ...]
Axes: TypeAlias = Sequence[int]
DTypeLike: TypeAlias = Any
PyTree: TypeAlias = Any
