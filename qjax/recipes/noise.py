"""Keys of stochastic roundings by path: the same in every door that a model comes through.

The n-th contraction at a path, with n from 0, has the words of the model's key, XORed with those
of a digest of the path and with multiples of n: noise hashes them, so that it is enough that they
differ. The key is `rngs={"quant": key}` of a linen module, `rngs=key` of an nnx module,
`quant_key=key` of a function. Another layer therefore changes no noise but its own. A loop folds
its turn into the key first; an nnx layer goes on counting from call to call.
"""

import functools
import hashlib
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from qjax._typing import Key, PyTree
from qjax.contraction.absent import folded, of_key
from qjax.rounding import derived

Draws = tuple[tuple[str, int], ...]


# Multiples of these odd numbers differ in their high bits, where the roles of operands, which are
# XORed with a key later, do not reach.
_COUNTED = np.array([0x9E3779B9, 0xC2B2AE3D], np.uint32)


def at(key: Any, path: str) -> Any:
    """The key of all contractions at a path."""
    return of_key(derived, key, _digest(path))


def counted(key: Any, count: Any) -> Any:
    """The key of one contraction of all at a path; the count may be traced."""
    # A count that is known stays a number of NumPy, and its words a constant of the program.
    word = np.uint32(count) if isinstance(count, int) else jnp.asarray(count).astype(jnp.uint32)
    return of_key(derived, key, word * _COUNTED)


@functools.lru_cache(maxsize=4096)
def _digest(path: str) -> np.ndarray:
    return np.frombuffer(hashlib.sha256(path.encode()).digest()[:8], "<u4").astype(np.uint32)


# No path of a model is spelled like these.
_TURNS, _BACKWARD = zlib.crc32(b"<turns>"), zlib.crc32(b"<backward>")


class Noise:
    """Draws the keys of one program's contractions.

    Attributes:
      key: Key of the model; None where `own` holds those of all paths; `Absent` where none came.
      own: Keys of paths that do not follow from `key`.
      counts: How many contractions there were at each path; may be traced.
    """

    def __init__(
        self,
        key: Any,
        own: Mapping[str, Key] | None = None,
        counts: Mapping[str, Any] | None = None,
    ):
        self.key, self.own, self.counts = key, dict(own or {}), dict(counts or {})

    def draw(self, path: str) -> Any:
        """The key of the next contraction at `path`."""
        count = self.counts.get(path, 0)
        self.counts[path] = count + 1
        return counted(self._at(path), count)

    def pass_over(self, draws: Draws) -> None:
        """Goes on behind contractions that drew from a copy."""
        for path, many in draws:
            self.counts[path] = self.counts.get(path, 0) + many

    def given(self, draws: Draws) -> PyTree:
        """What a construct with these contractions needs, as arguments that may be traced.

        Equal constructs have arguments of equal structure, wherever they stand.
        """
        own = {path: self.own[path] for path, _ in draws if path in self.own}
        return self.key, own, {path: self.counts.get(path, 0) for path, _ in draws}

    def copy(self) -> "Noise":
        """The same keys once more, for a construct that may run otherwise than it is traced."""
        return Noise(self.key, self.own, self.counts)

    def turn(self, turn: Any) -> "Noise":
        """The keys of one turn of a loop."""
        return self.folded(_TURNS).folded(turn)

    def folded(self, number: Any) -> "Noise":
        """Other keys for the same contractions."""
        own = {path: folded(key, number) for path, key in self.own.items()}
        return Noise(folded(self.key, number), own, self.counts)

    def backward(self) -> "Noise":
        """The keys of the backward rule of a call: others at every call, and none of forward's."""
        other = self.folded(_BACKWARD)
        own = {path: folded(other._at(path), n) for path, n in self.counts.items()}
        return Noise(other.key, own)

    def _at(self, path: str) -> Any:
        if path in self.own or self.key is None:
            return self.own.get(path)
        return at(self.key, path)


def together(many: Iterable[Draws]) -> Draws:
    """The contractions of several programs, one after another."""
    total: dict[str, int] = {}
    for draws in many:
        for path, number in draws:
            total[path] = total.get(path, 0) + number
    return tuple(total.items())
