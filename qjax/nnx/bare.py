"""Layers of flax.nnx that contract without a seam: their calls are traced and rewritten.

Such a layer is given a class derived from its own. This is safe because these layers only read
their parameters.
"""

import functools
import types
from collections.abc import Callable
from typing import Any

from flax import nnx

from qjax._typing import Array
from qjax.nnx.names import named, original, rebuilt
from qjax.nnx.store import Store
from qjax.nnx.streams import Streams
from qjax.recipes.rewrite import Decision, rewrite

# By layer: the methods that contract, and what rules call the operation.
BARE: dict[type[nnx.Module], tuple[tuple[str, ...], str]] = {
    nnx.ConvTranspose: (("__call__",), "conv_general_dilated"),
    nnx.LoRA: (("_low_rank",), "dot_general"),
    nnx.Embed: (("attend",), "dot_general"),
}


def fill_bare(
    layer: Any,
    methods: tuple[str, ...],
    decision: Decision,
    streams: Streams | None,
    store: Store | None,
) -> None:
    """Makes `methods` of a layer compute by `decision`."""
    layer.__class__ = _derived(original(layer), methods)
    layer.__qjax__ = decision
    layer.__qjax_key__ = nnx.data(streams)
    layer.__qjax_store__ = nnx.data(store)


@functools.lru_cache(maxsize=256)
def _derived(base: type[nnx.Module], methods: tuple[str, ...]) -> type[nnx.Module]:
    """The class of a layer without a seam, with `methods` rewritten when they are called."""
    kind = named(base)
    names: dict[str, Any] = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    names |= {"__qjax_base__": base, **rebuilt(_derived, base, methods)}
    if issubclass(kind, nnx.LoRA):
        # What it wraps is a layer of its own, with a state of its own: it stays outside.
        names |= {"_low_rank": _low_rank, "__call__": _lora_call}
    kind = types.new_class(kind.__name__, (kind,), exec_body=lambda body: body.update(names))
    for name in methods:
        setattr(kind, name, _rewritten(getattr(kind, name)))
    return kind


def _rewritten(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def method(self: Any, *arrays: Array, **kwargs: Any) -> Any:
        decision, streams, store = self.__qjax__, self.__qjax_key__, self.__qjax_store__
        noise = None if streams is None else streams.noise()
        ledger = None if store is None else store.ledger(decision.path)
        call = rewrite(functools.partial(original, self, **kwargs), lambda op, scopes: decision)
        out = call(*arrays, noise=noise, ledger=ledger)
        if streams is not None and noise is not None:
            streams.take(noise)
        if store is not None and ledger is not None:
            store.take(ledger)
        return out

    return method


def _low_rank(self: Any, x: Array) -> Array:
    x, a, b = self.promote_dtype((x, self.lora_a[...], self.lora_b[...]), dtype=self.dtype)
    return x @ a @ b


def _lora_call(self: Any, x: Array, **kwargs: Any) -> Array:
    out = self._low_rank(x)
    return out if self.base_module is None else out + self.base_module(x, **kwargs)
