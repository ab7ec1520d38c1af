"""The registry of laws: by name, with options, and open to the user's own.

A registered name maps to a factory, because some laws come in families (how many factors, which
labels). ``get("chinchilla")`` calls the factory without options.
"""

import difflib
from collections.abc import Callable
from typing import Any, TypeVar

from scaling.laws.law import Law

L = TypeVar("L", Law, Callable[..., Law])

_FACTORIES: dict[str, Callable[..., Law]] = {}


def register(law: L, name: str | None = None) -> L:
    """Adds a law, or a factory of laws, to the registry; usable as a decorator on a factory.

    Args:
        law: a finished ``Law``, or a function of keyword options that returns one.
        name: the key; a law's own name, or the function's, by default.

    Returns:
        ``law``, unchanged.

    Raises:
        ValueError: the name is taken by another law.
    """
    key = name or (law.name if isinstance(law, Law) else getattr(law, "__name__", ""))
    if key in _FACTORIES:
        raise ValueError(f"A law named {key!r} is registered already; choose another name.")
    if isinstance(law, Law):
        finished = law
        _FACTORIES[key] = lambda: finished
    else:
        _FACTORIES[key] = law
    return law  # pyright: ignore[reportReturnType]


def unregister(name: str) -> None:
    """Removes a law from the registry; unknown names raise ValueError."""
    if name not in _FACTORIES:
        raise ValueError(_unknown(name))
    del _FACTORIES[name]


def names() -> tuple[str, ...]:
    """Returns the registered names, sorted."""
    return tuple(sorted(_FACTORIES))


def get(law: str | Law, **options: Any) -> Law:
    """Returns a law by name, built with ``options``; a ``Law`` passes through.

    Raises:
        ValueError: no law has that name; the nearest names are listed.
    """
    if isinstance(law, Law):
        return law
    if law not in _FACTORIES:
        raise ValueError(_unknown(law))
    return _FACTORIES[law](**options)


def recipe(law: Law) -> tuple[str, dict[str, Any]] | None:
    """Returns (name, options) from which ``get`` rebuilds ``law``, or None for the user's own.

    Saved fits and worker processes name a law instead of carrying its formula.
    """
    options = dict(law.options)
    if law.name not in _FACTORIES or law.name not in _BUILT_IN:
        return None
    try:
        again = _FACTORIES[law.name](**options)
    except TypeError:
        return None
    same = again.params == law.params and again.predictors == law.predictors
    for ours, theirs in ((law.terms, again.terms), (law.formula, again.formula)):
        same = same and getattr(ours, "__qualname__", None) == getattr(theirs, "__qualname__", None)
    return (law.name, options) if same else None


_BUILT_IN: set[str] = set()


def close_built_in() -> None:
    """Remembers the laws registered so far as built in; called once, by the package."""
    _BUILT_IN.update(_FACTORIES)


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, _FACTORIES, n=3, cutoff=0.4)
    hint = f" Near: {', '.join(near)}." if near else ""
    return f"No law is named {name!r}.{hint} Registered: {', '.join(names())}."
