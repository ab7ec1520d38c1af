"""Fills the layers of an nnx module with the seams that a recipe gives them.

Layers that contract without a seam are given a class derived from their own, whose call is
traced and rewritten; this is safe because they only read their parameters.
"""

import functools
import types
import zlib
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from qjax._typing import Array, Key
from qjax.contraction import Policy
from qjax.contraction.outside import needs_variables
from qjax.nnx.packed import fill_packed, is_packed, refuse_packed
from qjax.nnx.seams import AttentionSeam, HoldingSeam, NoisySeam, Seam, unwrapped
from qjax.nnx.store import Store
from qjax.recipes.matching import Matching
from qjax.recipes.rewrite import Decision, rewrite

STREAM = "quant"
# By layer: the attribute that is its seam, and what rules call the operation.
_SEAMS: dict[type[nnx.Module], tuple[str, str]] = {
    nnx.Linear: ("dot_general", "dot_general"),
    nnx.LinearGeneral: ("dot_general", "dot_general"),
    nnx.Einsum: ("einsum_op", "einsum"),
    nnx.Conv: ("conv_general_dilated", "conv_general_dilated"),
}
_PLAIN: dict[str, Callable[..., Array]] = {
    "dot_general": jax.lax.dot_general,
    "einsum": jax.numpy.einsum,
    "conv_general_dilated": jax.lax.conv_general_dilated,
}
_DEFAULTS = (None, *_PLAIN.values())
# By layer without a seam: the methods that contract, and what rules call the operation.
_BARE: dict[type[nnx.Module], tuple[tuple[str, ...], str]] = {
    nnx.ConvTranspose: (("__call__",), "conv_general_dilated"),
    nnx.LoRA: (("_low_rank",), "dot_general"),
    nnx.Embed: (("attend",), "dot_general"),
}


def fill(
    layer: Any, path: str, matching: Matching, key: Key | None, diagnose: bool = False
) -> None:
    """Makes one layer compute by the rules; other modules are left alone."""
    if is_packed(layer):
        _fill_packed(layer, path, matching, key)
        return
    wrap = functools.partial(_wrapped, path=path, key=key, diagnose=diagnose)
    bare: Any = layer
    for kind, (attribute, op) in _SEAMS.items():
        if isinstance(layer, kind):
            own = getattr(layer, attribute)
            if own not in _DEFAULTS and not isinstance(unwrapped(own), Seam):
                return  # The user has filled it: that is a choice, and reports show it.
            if getattr(layer, "dot_general_cls", None) is not None:
                return
            rule = matching.rule(path, op)
            # Where nothing is quantized the seam still says in a program where it stands.
            policy, name = (Policy(), "") if rule is None else (rule.policy, str(rule))
            setattr(layer, attribute, wrap(Seam(op, policy, path, name), [policy]))
    if isinstance(layer, nnx.MultiHeadAttention):
        _fill_attention(layer, path, matching, wrap)
    for kind, (methods, op) in _BARE.items():
        if isinstance(layer, kind):
            rule = matching.rule(path, op)
            bare.__class__ = getattr(layer, "__qjax_base__", type(layer))
            if rule is not None:
                decision = Decision(rule.policy, path, str(rule), op)
                bare.__class__ = _derived(type(bare), methods)
                bare.__qjax__ = decision
                bare.__qjax_key__ = nnx.data(_stream(path, key, rule.policy))
                holds = diagnose or needs_variables(rule.policy)
                bare.__qjax_store__ = nnx.data(Store(diagnose) if holds else None)


def _fill_packed(layer: Any, path: str, matching: Matching, key: Key | None) -> None:
    seams = {kind: (("__call__",), op) for kind, (_, op) in _SEAMS.items()}
    for kind, (methods, op) in {**seams, **_BARE}.items():
        if not isinstance(layer, kind):
            continue
        rule = matching.rule(path, op)
        if rule is None:
            refuse_packed(layer, path, op)
            return
        if kind in _SEAMS:
            setattr(layer, _SEAMS[kind][0], _PLAIN[op])
        decision = Decision(rule.policy, path, str(rule), op)
        fill_packed(layer, methods, decision, _stream(path, key, rule.policy))


def _fill_attention(layer: Any, path: str, matching: Matching, wrap: Callable[..., Any]) -> None:
    own = unwrapped(layer.attention_fn)
    own = own.function if isinstance(own, AttentionSeam) else own
    found = []
    for part in ("qk", "av"):
        full = f"{path}/{part}" if path else part
        rule = matching.rule(full, "einsum")
        if rule is not None:
            found.append((part, Decision(rule.policy, full, str(rule), "einsum")))
    layer.attention_fn = own
    if found:
        seam = AttentionSeam(own, path, tuple(found))
        layer.attention_fn = wrap(seam, [decision.policy for _, decision in found])


def _wrapped(
    seam: Any, policies: list[Policy], *, path: str, key: Key | None, diagnose: bool
) -> Any:
    """A seam with the values and the stream of keys that its policies need."""
    quantizes = any(not policy.is_identity for policy in policies)
    if (diagnose and quantizes) or any(map(needs_variables, policies)):
        seam = HoldingSeam(seam, Store(diagnose))
    stream = next((s for p in policies if (s := _stream(path, key, p))), None)
    if stream is not None:
        seam = NoisySeam(seam, stream)
    return nnx.data(seam) if isinstance(seam, nnx.Module) else seam


def _stream(path: str, key: Key | None, policy: Policy) -> nnx.RngStream | None:
    if not policy.stochastic:
        return None
    if key is None:
        raise ValueError(
            f"The recipe rounds {path!r} stochastically, but `rngs` is None. Write "
            "`qjax.quantize(model, recipe, rngs=nnx.Rngs(quant=0))`."
        )
    own = jax.random.fold_in(key, zlib.crc32(path.encode()))
    return nnx.Rngs(**{STREAM: own})[STREAM]


@functools.lru_cache(maxsize=256)
def _derived(kind: type[nnx.Module], methods: tuple[str, ...]) -> type[nnx.Module]:
    """The class of a layer without a seam, with `methods` rewritten when they are called."""
    names: dict[str, Any] = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    names["__qjax_base__"] = kind
    if issubclass(kind, nnx.LoRA):
        # What it wraps is a layer of its own, with a state of its own: it stays outside.
        names |= {"_low_rank": _low_rank, "__call__": _lora_call}
    kind = types.new_class(kind.__name__, (kind,), exec_body=lambda body: body.update(names))

    def rewritten(name: str) -> Callable[..., Any]:
        original = getattr(kind, name)

        @functools.wraps(original)
        def method(self: Any, *arrays: Array, **kwargs: Any) -> Any:
            decision, stream, store = self.__qjax__, self.__qjax_key__, self.__qjax_store__
            key = None if stream is None else stream()
            ledger = None if store is None else store.ledger(decision.path)
            call = rewrite(functools.partial(original, self, **kwargs), lambda op, scopes: decision)
            out = call(*arrays, key=key, ledger=ledger)
            if store is not None and ledger is not None:
                store.take(ledger)
            return out

        return method

    for name in methods:
        setattr(kind, name, rewritten(name))
    return kind


def _low_rank(self: Any, x: Array) -> Array:
    x, a, b = self.promote_dtype((x, self.lora_a[...], self.lora_b[...]), dtype=self.dtype)
    return x @ a @ b


def _lora_call(self: Any, x: Array, **kwargs: Any) -> Array:
    out = self._low_rank(x)
    return out if self.base_module is None else out + self.base_module(x, **kwargs)
