"""Quantized linen classes in pickles: the class that was quantized, and by what.

A derived class keeps the name of its base, so pickle, which stores classes by name, would find
the base in its place and refuse, also where the class is only a field of another module. What is
stored instead is how the class was made. A class that stands under its own name, as a decorated
one does, is pickled as any other.

Pickle lets the type of a class say how it is stored, and nothing else: so derived classes have a
type of their own, a metaclass. It is one of abstract base classes, for these to stand beside it.
"""

import abc
import copyreg
import functools
import sys
from collections.abc import Callable
from typing import Any

_MAKE = "__qjax_make__"


class Derived(abc.ABCMeta):
    """Type of the classes that are pickled by how they were made."""


@functools.cache
def _type_beside(other: type) -> type:
    """The type of classes derived from one whose type is `other`."""
    kind = Derived if issubclass(Derived, other) else type(other.__name__, (Derived, other), {})
    copyreg.pickle(kind, _reduce)  # type: ignore[arg-type]
    return kind


def pickled_by(base: type, make: Callable[[], type]) -> tuple[type, dict[str, Any]]:
    """Returns the metaclass, and attributes, of the class that `make()` derives from `base`."""
    other = type(base)
    return (other if issubclass(other, Derived) else _type_beside(other)), {_MAKE: (make,)}


def _reduce(kind: type) -> str | tuple[Any, ...]:
    """What pickle stores of a class: a name, or a function that makes it and its arguments."""
    if _MAKE not in vars(kind) or _stands_under_its_name(kind):
        return kind.__qualname__
    return _made, vars(kind)[_MAKE]


def _stands_under_its_name(kind: type) -> bool:
    """Whether a module holds a class where its name says."""
    found: Any = sys.modules.get(kind.__module__)
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is kind


def _made(make: Callable[[], type]) -> type:
    return make()
