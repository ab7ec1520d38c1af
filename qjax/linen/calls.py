"""Which module of a model is being called, also where one applies another by hand.

A module may apply one that is none of its children: `conv.apply({"params": {...}}, x)` computes
with weights that it has changed. Flax gives such a module variables and streams of its own, and
its path starts anew. Here it stands under the module that applies it, which holds what its
operands learn and whose keys its noise follows from.
"""

import contextlib
import dataclasses
from collections.abc import Iterator

import flax.linen as nn

Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a module.

    Attributes:
      module: The module.
      path: Where it stands, as rules and reports know it.
      host: The module of the model that holds its values: itself, or what applies it by hand.
      applied: Where the module stands that was applied by hand; None within the model itself.
    """

    module: nn.Module
    path: Path
    host: nn.Module
    applied: Path | None = None

    @property
    def part(self) -> str:
        """What the module's values are called among those of its host."""
        return "_".join(self.path[len(self.host.path) :])

    @property
    def is_thrown_away(self) -> bool:
        """Whether a module applied by hand is only asked for the parameters that it makes."""
        return self.applied is not None and self.module.is_initializing()


class Calls:
    """The calls of the modules of a model that are going on.

    Attributes:
      root: The model; where None came, the module that is called first.
    """

    def __init__(self, root: nn.Module | None = None):
        self.root = root
        self._open: list[Call] = []

    @contextlib.contextmanager
    def entering(self, module: nn.Module) -> Iterator[Call]:
        """Opens a call of `module` for the block."""
        root = self.root = module if self.root is None else self.root
        outer = self._open[-1] if self._open else Call(root, root.path, root)
        self._open.append(self._call(module, outer, root))
        try:
            yield self._open[-1]
        finally:
            self._open.pop()

    def _call(self, module: nn.Module, outer: Call, root: nn.Module) -> Call:
        if _is_applied(module, outer, root):
            applied = (*outer.path, module.name or type(module).__name__)
            return Call(module, applied, outer.host, applied)
        if outer.applied is not None:
            return Call(module, (*outer.applied, *module.path), outer.host, outer.applied)
        return Call(module, module.path, module)


def _is_applied(module: nn.Module, outer: Call, root: nn.Module) -> bool:
    """Whether a module is called through an `apply` of its own.

    Its path is then empty. So is that of the model, of a module that shares the scope of the
    model, and of copies of both that Flax makes for lifted transformations.
    """
    if module.path or module.scope in (outer.module.scope, root.scope):
        return False
    return type(module) not in (type(outer.module), type(root))
