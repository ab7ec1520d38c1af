"""Paths of modules, read from the names that linen leaves in a traced program.

A name there is that of a module, followed by a dot and a method unless this is `__call__`. Which
dots belong to the names themselves is heard while the program is traced.
"""

from collections.abc import Callable
from typing import Any

from qjax.linen.seams import SUBSCRIPTS


class Names:
    """The names of the modules of one program."""

    def __init__(self):
        self._heard: set[str] = set()

    def hear(
        self, next_fun: Callable[..., Any], args: tuple, kwargs: dict[str, Any], context: Any
    ) -> Any:
        """Notes the name of a module that is called; an interceptor of methods."""
        if context.module.name is not None:
            self._heard.add(context.module.name)
        return next_fun(*args, **kwargs)

    def path_of(self, scopes: tuple[str, ...]) -> str:
        """The path of a module from the names around an operation, outermost first."""
        path: list[str] = []
        for scope in scopes[1:]:  # The first names the root module itself.
            if scope in SUBSCRIPTS:
                path.append(SUBSCRIPTS[scope])
            name = self._module(scope)
            if name is None or (path and path[-1] == name) or scope.startswith(scopes[0] + "."):
                continue
            path.append(name)
        return "/".join(path)

    def _module(self, scope: str) -> str | None:
        """The name of the module in `scope`; None where it names none."""
        for name in (scope, scope.rpartition(".")[0]):
            if name in self._heard:
                return name
        name = scope.split(".")[0]
        return name if name.isidentifier() else None
