"""Where the contractions of an nnx layer draw the keys of their noise from."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import nnx

from qjax._typing import Key, Shape
from qjax.recipes.noise import Noise, at

STREAM = "quant"


class Streams(nnx.Module):
    """A stream of keys for each path that a layer contracts at, whose states go on by calls.

    They belong to the model, like those of dropout. A layer whose parameters are those of many,
    stacked for `nnx.scan` or `nnx.vmap`, has streams stacked alike.
    """

    def __init__(self, key: Key, paths: Sequence[str], stack: Shape = ()):
        self.paths = tuple(paths)
        keys = [at(key, path) for path in paths]
        keys = [jax.random.split(key, stack) for key in keys] if stack else keys
        self.streams = nnx.List([nnx.RngStream(key, tag=STREAM) for key in keys])

    def noise(self) -> Noise:
        """The keys of one call."""
        pairs = list(zip(self.paths, self.streams, strict=True))
        own = {path: stream.key[...] for path, stream in pairs}
        return Noise(None, own, {path: stream.count[...] for path, stream in pairs})

    def take(self, noise: Noise) -> None:
        """Goes on behind what a call has drawn."""
        for path, stream in zip(self.paths, self.streams, strict=True):
            stream.count[...] = noise.counts[path]


# The parameter of a layer that is contracted, and how many axes it has where it is one layer's.
_OWN: tuple[tuple[type[nnx.Module], Callable[[Any], tuple[Any, int]]], ...] = (
    (nnx.LinearGeneral, lambda m: (m.kernel, len((*m.batch_axis, *m.axis, *m.out_features)))),
    (nnx.Linear, lambda m: (m.kernel, 2)),
    (nnx.Einsum, lambda m: (m.kernel, len(m.kernel_shape))),
    (nnx.Conv, lambda m: (m.kernel, len(m.kernel_size) + 2)),
    (nnx.ConvTranspose, lambda m: (m.kernel, len(m.kernel_size) + 2)),
    (nnx.Embed, lambda m: (m.embedding, 2)),
    (nnx.LoRA, lambda m: (m.lora_a, 2)),
    (nnx.MultiHeadAttention, lambda m: _OWN[0][1](m.query)),
)


def stack_of(layer: Any) -> Shape:
    """Leading axes along which a layer's parameters are those of many layers."""
    for kind, find in _OWN:
        if isinstance(layer, kind):
            variable, own = find(layer)
            shape = jax.tree.leaves(variable.get_value())[0].shape
            return tuple(shape[: max(0, len(shape) - own)])
    return ()
