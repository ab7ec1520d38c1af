"""Where the contractions of an nnx layer draw the keys of their noise from."""

from collections.abc import Sequence

from flax import nnx

from qjax._typing import Key
from qjax.recipes.noise import Noise, at

STREAM = "quant"


class Streams(nnx.Module):
    """A stream of keys for each path that a layer contracts at, whose states go on by calls.

    They belong to the model, like those of dropout.
    """

    def __init__(self, key: Key, paths: Sequence[str]):
        self.paths = tuple(paths)
        self.streams = nnx.List([nnx.Rngs(**{STREAM: at(key, path)})[STREAM] for path in paths])

    def noise(self) -> Noise:
        """The keys of one call."""
        pairs = list(zip(self.paths, self.streams, strict=True))
        own = {path: stream.key[...] for path, stream in pairs}
        return Noise(None, own, {path: stream.count[...] for path, stream in pairs})

    def take(self, noise: Noise) -> None:
        """Goes on behind what a call has drawn."""
        for path, stream in zip(self.paths, self.streams, strict=True):
            stream.count[...] = noise.counts[path]
