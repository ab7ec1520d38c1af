"""Modules that leave their path in the traced program, so that what they contract is found.

nnx itself leaves no names. A module is given a class derived from its own, whose methods run
inside a name; nothing else of it changes.
"""

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from qjax.recipes.walk import module_scope

# Modules of Flax that contract by code of their own, or by a function that the user gives.
_OF_FLAX = (nnx.MultiHeadAttention, nnx.SpectralNorm, nnx.ConvTranspose, nnx.LoRA, nnx.Embed)


def original(layer: Any) -> type:
    """The class that a layer had before it was given one of this library."""
    return getattr(type(layer), "__qjax_base__", type(layer))


def name(layer: Any, path: str) -> None:
    """Makes a module leave `path` in traced programs, if it may contract by itself."""
    kind = original(layer)
    named_too = issubclass(kind, _OF_FLAX) or not _is_of_flax(kind)
    layer.__class__ = named(kind) if named_too else kind
    if named_too:
        layer.__qjax_path__ = path


def rebuilt(make: Callable[..., type], *args: Any) -> dict[str, Any]:
    """What a derived class holds so that its instances can be pickled: who made it, and of what."""
    return {"__qjax_make__": (make, *args), "__reduce_ex__": _reduce}


def _reduce(self: Any, protocol: Any) -> tuple[Any, ...]:
    _, _, *rest = object.__reduce_ex__(self, protocol)
    return _instance, type(self).__qjax_make__, *rest


def _instance(make: Callable[..., type], *args: Any) -> Any:
    kind: Any = make(*args)
    return kind.__new__(kind)


def _is_of_flax(kind: type) -> bool:
    return kind.__module__.split(".")[0] in ("flax", "qjax")


@functools.lru_cache(maxsize=1024)
def named(kind: type) -> type:
    """The class derived from `kind` whose methods run inside the name of a module's path."""
    names: dict[str, Any] = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    names |= {"__qjax_base__": kind, **rebuilt(named, kind)}
    for parent in reversed(kind.__mro__[: kind.__mro__.index(nnx.Module)]):
        for method, function in vars(parent).items():
            if inspect.isfunction(function) and (method == "__call__" or method[:2] != "__"):
                names[method] = _inside_name(function)
    return types.new_class(kind.__name__, (kind,), exec_body=lambda body: body.update(names))


def _inside_name(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        with jax.named_scope(module_scope(self.__qjax_path__)):
            return function(self, *args, **kwargs)

    return method
