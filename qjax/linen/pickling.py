"""Quantized linen modules in pickles: the class that was quantized, and by what.

A derived class keeps the name of its base, so pickle, which stores classes by name, finds the
base in its place and refuses. What is stored instead is how the class was made. A class that
stands under its own name, as a decorated one does, is pickled as any other.
"""

import copyreg
import sys
from collections.abc import Callable
from typing import Any

import flax.linen as nn


def reducing(base: type[nn.Module], make: Callable[[], type]) -> Callable[..., Any]:
    """Returns the method `__reduce_ex__` of the class that `make()` derives from `base`."""

    @nn.nowrap
    def reduce(self: nn.Module, protocol: Any) -> Any:
        reduced = base.__reduce_ex__(self, protocol)
        kind = type(self)
        derived = vars(kind).get("__reduce_ex__") is reduce and not _stands_under_its_name(kind)
        if not derived or reduced[0] is not copyreg.__newobj__:  # type: ignore[attr-defined]
            return reduced
        return _instance, (make,), *reduced[2:]

    return reduce


def _stands_under_its_name(kind: type) -> bool:
    """Whether a module holds a class where its name says."""
    found: Any = sys.modules.get(kind.__module__)
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is kind


def _instance(make: Callable[[], type]) -> Any:
    """Returns an instance without fields; pickle fills them in."""
    kind: Any = make()
    return kind.__new__(kind)
