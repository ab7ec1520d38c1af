"""Paths of modules in a traced program: left there while it is traced, read when it is listed.

Flax leaves names by itself, but those of the calls, which are other paths than those of the
parameters where modules are shared, and it ends a name with a dot and a method. They are read
where nothing better stands, in what was traced before.
"""

from collections.abc import Callable
from typing import Any

import jax

from qjax.linen.calls import Calls
from qjax.linen.seams import SUBSCRIPTS
from qjax.recipes.walk import module_of, module_scope


class Paths:
    """Leaves the path of each module in the program of one model."""

    def __init__(self):
        self._calls = Calls()

    def leave(
        self, next_fun: Callable[..., Any], args: tuple, kwargs: dict[str, Any], context: Any
    ) -> Any:
        """Calls a module under its path; an interceptor of methods."""
        with (
            self._calls.entering(context.module) as call,
            jax.named_scope(module_scope("/".join(call.path))),
        ):
            return next_fun(*args, **kwargs)


def path_of(scopes: tuple[str, ...]) -> str:
    """The path of a module from the names around an operation, outermost first."""
    path: list[str] = []
    for scope in scopes[1:]:  # The first names the root module itself.
        module = module_of(scope)
        if module is not None:
            path = module
            continue
        if scope in SUBSCRIPTS:
            path.append(SUBSCRIPTS[scope])
        name = scope.split(".")[0]  # Methods other than __call__ stand behind a dot.
        if (
            not name.isidentifier()
            or (path and path[-1] == name)
            or scope.startswith(scopes[0] + ".")
        ):
            continue
        path.append(name)
    return "/".join(path)
