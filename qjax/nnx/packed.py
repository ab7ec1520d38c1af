"""Layers of flax.nnx whose weights are packed: their own code speaks of arrays.

Such a layer is given a class derived from its own, whose methods are traced as functions of
the layer's state and rewritten, so that its contraction receives the codes.
"""

import functools
import types
from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import nnx

from qjax.nnx.names import original as original_of
from qjax.nnx.names import rebuilt
from qjax.nnx.streams import Streams
from qjax.recipes.rewrite import Decision, rewrite
from qjax.recipes.roles import Role
from qjax.recipes.stored import check_wanted, is_stored


def is_packed(layer: Any) -> bool:
    """Whether a layer holds packed weights of its own."""
    return any(is_stored(value) for _, value in _own(layer))


def _own(layer: Any) -> list[tuple[str, Any]]:
    variables = [(n, v) for n, v in vars(layer).items() if isinstance(v, nnx.Variable)]
    return [(name, variable.get_value()) for name, variable in variables]


def refuse_packed(layer: Any, path: str, op: str) -> None:
    """Refuses packed weights of a layer that no rule quantizes.

    Raises:
      ValueError: If it has any, naming the leaf and both types.
    """
    for name, value in _own(layer):
        check_wanted(f"{path}/{name}" if path else name, op, (None, value))


def fill_packed(
    layer: Any, methods: Sequence[str], decision: Decision, streams: Streams | None
) -> None:
    """Makes `methods` of a layer compute by `decision` on packed weights."""
    layer.__class__ = _derived(original_of(layer), tuple(methods))
    layer.__qjax__ = decision
    layer.__qjax_key__ = nnx.data(streams)


@functools.lru_cache(maxsize=256)
def _derived(kind: type[nnx.Module], methods: tuple[str, ...]) -> type[nnx.Module]:
    names: dict[str, Any] = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    names |= {"__qjax_base__": kind, **rebuilt(_derived, kind, methods)}
    names |= {name: _rewritten(getattr(kind, name)) for name in methods}
    return types.new_class(kind.__name__, (kind,), exec_body=lambda body: body.update(names))


def _rewritten(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def method(self: Any, *arrays: Any, **kwargs: Any) -> Any:
        decision, streams = self.__qjax__, self.__qjax_key__
        noise = None if streams is None else streams.noise()
        graph, state = nnx.split(self)

        def call(state: Any, *arrays: Any) -> Any:
            # The method of its own class, not this one: the layer is the same.
            return original(nnx.merge(graph, state), *arrays, **kwargs)

        held = len(jax.tree.leaves(state, is_leaf=is_stored))
        roles = [Role.WEIGHT] * held + [Role.ACTIVATION] * len(jax.tree.leaves(arrays))
        rewritten = rewrite(call, lambda op, scopes: decision)
        out = rewritten(state, *arrays, noise=noise, roles=roles)
        if streams is not None and noise is not None:
            streams.take(noise)
        return out

    return method
