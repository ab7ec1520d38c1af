"""Classes whose modules compute by a recipe, derived from those of a model.

Their methods enter the recipe (`interception`) in whatever they are called from. So do the modules
that are taken out of such a module while none of its methods runs: of `model.bind(variables).layer`
and of `nn.apply(lambda model, x: model.layer(x), model)`. They are bound copies that belong to the
bound model alone, and get a derived class of their own in that moment; what the user has built
stays as it is.
"""

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn

from qjax.linen.calls import Path
from qjax.linen.interception import Alike, Quantization, entering, is_entered
from qjax.linen.pickling import pickled_by
from qjax.recipes import Recipe

_ASKED, _ABOVE, _ENTERS = "__qjax_asked__", "__qjax_above__", "__qjax_enters__"
_ENTRIES = ("apply", "init", "init_with_output")


def original(cls: type[nn.Module]) -> type[nn.Module]:
    """The class that was quantized, where `cls` is one that was derived from it; else `cls`."""
    while _ASKED in vars(cls):
        cls = cls.__mro__[1]
    return cls


def derive(
    base: type[nn.Module], recipe: Recipe, diagnose: bool, above: Path = ()
) -> type[nn.Module]:
    """Derives the class of modules that compute by `recipe`.

    Args:
      base: The class as it was.
      recipe: What its layers compute in.
      diagnose: Whether facts about casts are collected.
      above: Where its modules stand in the model whose paths the rules speak of.
    """
    try:
        alike = _alike(base, recipe, diagnose)
    except TypeError:  # Numbers of it are arrays, which do not compare: it is like no other.
        alike = Alike()
    return _derived(base, Quantization(recipe, diagnose, alike), above)


@functools.lru_cache(maxsize=256)
def _alike(base: type[nn.Module], recipe: Recipe, diagnose: bool) -> Alike:
    del base, recipe, diagnose
    return Alike()


def _derived(base: type[nn.Module], asked: Quantization, above: Path) -> type[nn.Module]:
    again = functools.partial(derive, base, asked.recipe, asked.diagnose, above)
    metaclass, namespace = pickled_by(base, again)
    namespace |= {
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        _ASKED: asked,
        _ABOVE: above,
    }
    for name in _methods(base):
        namespace[name] = _entering(getattr(base, name), asked, above)
    for name in _ENTRIES:
        namespace[name] = _entering_through(getattr(base, name), asked, above)
    for name in ("__getattribute__", "__getattr__"):
        namespace[name] = _taking_out(getattr(base, name), asked)
    keywords = {"metaclass": metaclass}
    return types.new_class(base.__name__, (base,), keywords, lambda body: body.update(namespace))


def _methods(cls: type[nn.Module]) -> list[str]:
    """Names of the methods that a caller may enter the module by."""
    found: dict[str, Any] = {}
    for parent in reversed(cls.__mro__[: cls.__mro__.index(nn.Module)]):
        found.update(parent.__dict__)
    return [
        name
        for name, value in found.items()
        if inspect.isfunction(value)
        and (name == "__call__" or not name.startswith("__"))
        and name not in ("setup", *_ENTRIES)
        and (hasattr(value, _ENTERS) or not getattr(value, "nowrap", False))
    ]


def _entering(function: Callable[..., Any], asked: Quantization, above: Path) -> Callable[..., Any]:
    """Returns a function of a module, or a method, that enters the recipe around `function`."""
    name = getattr(function, "__name__", "")

    # Not wrapped by Flax: entering an interceptor is no call of the module.
    @nn.nowrap
    def method(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with entering(self, name, asked, above):
            return function(self, *args, **kwargs)

    functools.update_wrapper(method, function, updated=())
    method.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    setattr(method, _ENTERS, True)
    return method


def _entering_through(
    function: Callable[..., Any], asked: Quantization, above: Path
) -> Callable[..., Any]:
    """Returns `apply` or its like, which may be given any function of the bound module."""

    @nn.nowrap
    @functools.wraps(function)
    def entry(self: nn.Module, *args: Any, method: Any = None, **kwargs: Any) -> Any:
        if inspect.ismethod(method):  # Flax takes what it is a method of for the bound module.
            method = method.__func__
        if callable(method):  # Such as a method of the class that was quantized.
            method = _entering(method, asked, above)
        return function(self, *args, method=method, **kwargs)

    return entry


def _taking_out(get: Callable[..., Any], asked: Quantization) -> Callable[..., Any]:
    """Returns `__getattribute__` or its like, which quantizes modules that are taken out."""

    @nn.nowrap
    def taken(self: nn.Module, name: str) -> Any:
        value = get(self, name)
        if not name.startswith("_") and not is_entered(asked) and _holds(type(self), asked):
            for module in _modules_in(value):
                _quantize_part(module, asked)
        return value

    return taken


def _modules_in(value: Any) -> Iterator[nn.Module]:
    """Modules among the values that linen looks for submodules in."""
    if isinstance(value, nn.Module):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _modules_in(each)
    elif isinstance(value, Mapping):
        yield from _modules_in(list(value.values()))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from _modules_in([getattr(value, each.name) for each in dataclasses.fields(value)])


def _quantize_part(module: nn.Module, asked: Quantization) -> None:
    """Makes a bound module below one that `asked` quantizes compute by itself as it does there."""
    if module.scope is None or _above(type(module), asked):
        return  # Not bound, or a part already.
    place, above = module.parent, None
    while isinstance(place, nn.Module) and above is None:
        above = _above(type(place), asked)
        place = place if above is not None else place.parent
    if above is None:
        return  # It belongs to another model, that lent it.
    assert isinstance(place, nn.Module)
    key = (type(module), (*above, *module.path[len(place.path) :]))
    if key not in asked.parts:
        asked.parts[key] = _derived(key[0], asked, key[1])
    # A module is frozen outside of `setup`; this one is a copy that was bound for its model.
    object.__setattr__(module, "__class__", asked.parts[key])


def _holds(cls: type, asked: Quantization) -> bool:
    """Whether no class below that which `asked` has quantized was quantized anew."""
    for parent in cls.__mro__:
        found = vars(parent).get(_ASKED)
        if found is asked or (found is not None and not vars(parent)[_ABOVE]):
            return found is asked
    return False


def _above(cls: type, asked: Quantization) -> Path | None:
    """Where modules of a class stand in what `asked` quantizes; None where they do not."""
    for parent in cls.__mro__:
        if vars(parent).get(_ASKED) is asked:
            return vars(parent)[_ABOVE]
    return None
