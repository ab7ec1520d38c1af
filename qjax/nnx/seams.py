"""What layers of flax.nnx call instead of their own operation.

Seams compare by value and hold no arrays, so that a compiled program does not depend on which
of two equal ones a layer holds. Which layer gets which is chosen elsewhere.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from qjax._typing import Array
from qjax.contraction import Policy, conv_general_dilated, dot_general, einsum
from qjax.contraction.record import site
from qjax.nnx.store import Store
from qjax.nnx.streams import Streams
from qjax.recipes.noise import Noise
from qjax.recipes.rewrite import Decision, rewrite
from qjax.recipes.walk import module_scope

_DOORS: dict[str, Callable[..., Array]] = {
    "dot_general": dot_general,
    "einsum": einsum,
    "conv_general_dilated": conv_general_dilated,
}
# The contractions of attention by the subscripts that stand in the traced program.
_PARTS = {
    "...qhd,...khd->...hqk": "qk",
    "...qhgd,...kh1d->...hgqk": "qk",
    "...hqk,...khd->...qhd": "av",
    "...hgqk,...kh1d->...qhgd": "av",
    "BTNH,BSNH->BNTS": "qk",
    "BNTS,BSNH->BTNH": "av",
}


@dataclasses.dataclass(frozen=True)
class Seam:
    """What a layer calls instead of its own operation. Compares by value: nothing is traced.

    Attributes:
      op: Name of the operation.
      policy: What it computes in.
      path: Path of the layer.
      rule: The rule that chose.
    """

    op: str
    policy: Policy
    path: str
    rule: str

    def __call__(
        self, *args: Any, noise: Noise | None = None, variables: Any = None, **kwargs: Any
    ) -> Array:
        key = None if noise is None else noise.draw(self.path)
        if self.op == "einsum" and kwargs.get("out_sharding") is None:
            kwargs.pop("out_sharding", None)
        with jax.named_scope(module_scope(self.path)), site(self.path, self.rule):
            return _DOORS[self.op](
                *args, **kwargs, policy=self.policy, key=key, variables=variables
            )


class HoldingSeam(nnx.Module):
    """A seam whose contractions learn or remember.

    Attributes:
      seam: The seam.
      store: What they learn and remember; it belongs to the model.
    """

    def __init__(self, seam: Any, store: Store):
        self.seam = seam
        self.store = store

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        ledger = self.store.ledger(self.seam.path)
        out = self.seam(*args, variables=ledger, **kwargs)
        self.store.take(ledger)
        return out


class NoisySeam(nnx.Module):
    """A seam that rounds stochastically: every contraction draws a key from its stream.

    Attributes:
      seam: The seam.
      streams: The streams.
    """

    def __init__(self, seam: Any, streams: Streams):
        self.seam = seam
        self.streams = streams

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        noise = self.streams.noise()
        out = self.seam(*args, noise=noise, **kwargs)
        self.streams.take(noise)
        return out


@dataclasses.dataclass(frozen=True)
class AttentionSeam:
    """An attention function whose contractions compute by the rules for "qk" and "av"."""

    function: Callable[..., Array]
    path: str
    decisions: tuple[tuple[str, Decision], ...]

    def __call__(
        self, query: Array, key_: Array, value: Array, *, noise=None, variables=None, **kwargs
    ) -> Array:
        module = kwargs.get("module")
        if module is not None:
            raise ValueError(
                f"`quantize` traces the attention at {self.path!r}, which was asked to sow its "
                "weights. Leave out `sow_weights`, or exempt the layer by a rule."
            )
        found = dict(self.decisions)

        def choose(op: str, scopes: tuple[str, ...]) -> Decision | None:
            part = next((_PARTS[s] for s in scopes if s in _PARTS), None)
            return None if part is None else found.get(part)

        # Arrays become arguments of what is traced.
        call = rewrite(functools.partial(_call_with, self.function, kwargs), choose)
        arrays = {k: kwargs[k] for k in ("mask", "bias", "dropout_rng") if k in kwargs}
        return call(query, key_, value, arrays, noise=noise, ledger=variables)


def unwrapped(seam: Any) -> Any:
    """A seam without what adds noise and values to it."""
    while isinstance(seam, NoisySeam | HoldingSeam):
        seam = seam.seam
    return seam


def _call_with(function, kwargs, query, key, value, arrays):
    return function(query, key, value, **{**kwargs, **arrays})
