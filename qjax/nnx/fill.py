"""Fills the layers of an nnx module with the seams that a recipe gives them."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from qjax._typing import Array, Key
from qjax.contraction import Policy
from qjax.contraction.outside import needs_variables
from qjax.nnx.bare import BARE, fill_bare
from qjax.nnx.names import name as name_module
from qjax.nnx.packed import fill_packed, is_packed, refuse_packed
from qjax.nnx.seams import AttentionSeam, HoldingSeam, NoisySeam, Seam, unwrapped
from qjax.nnx.store import Store, holds_values
from qjax.nnx.streams import Streams, stack_of
from qjax.recipes.matching import Matching
from qjax.recipes.rewrite import Decision

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


def fill(
    layer: Any, path: str, matching: Matching, key: Key | None, diagnose: bool = False
) -> None:
    """Makes one layer compute by the rules; other modules only leave their path in programs."""
    name_module(layer, path)
    if is_packed(layer):
        _fill_packed(layer, path, matching, key)
        return
    wrap = functools.partial(_wrapped, layer=layer, key=key, diagnose=diagnose)
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
            setattr(layer, attribute, wrap(Seam(op, policy, path, name), {path: policy}))
    if isinstance(layer, nnx.MultiHeadAttention):
        _fill_attention(layer, path, matching, wrap)
    for kind, (methods, op) in BARE.items():
        rule = matching.rule(path, op) if isinstance(layer, kind) else None
        if rule is not None:
            decision = Decision(rule.policy, path, str(rule), op)
            policies = {path: rule.policy}
            store = _store(policies, diagnose)
            fill_bare(layer, methods, decision, _streams(layer, policies, key), store)


def _fill_packed(layer: Any, path: str, matching: Matching, key: Key | None) -> None:
    seams = {kind: (("__call__",), op) for kind, (_, op) in _SEAMS.items()}
    for kind, (methods, op) in {**seams, **BARE}.items():
        if not isinstance(layer, kind):
            continue
        rule = matching.rule(path, op)
        if rule is None:
            refuse_packed(layer, path, op)
            return
        if kind in _SEAMS:
            setattr(layer, _SEAMS[kind][0], _PLAIN[op])
        decision = Decision(rule.policy, path, str(rule), op)
        fill_packed(layer, methods, decision, _streams(layer, {path: rule.policy}, key))


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
        policies = {decision.path: decision.policy for _, decision in found}
        layer.attention_fn = wrap(seam, policies)


def _wrapped(
    seam: Any, policies: dict[str, Policy], *, layer: Any, key: Key | None, diagnose: bool
) -> Any:
    """A seam with the values and the streams of keys that its policies, by paths, need."""
    store = _store(policies, diagnose)
    if store is not None:
        seam = HoldingSeam(seam, store)
    streams = _streams(layer, policies, key)
    if streams is not None:
        seam = NoisySeam(seam, streams)
    return nnx.data(seam) if isinstance(seam, nnx.Module) else seam


def _store(policies: dict[str, Policy], diagnose: bool) -> Store | None:
    """Where the values of contractions live; None where they need no such place."""
    each = [policy for policy in policies.values() if not policy.is_identity]
    if not (diagnose and each) and not any(map(needs_variables, each)):
        return None
    return Store(diagnose, empty=not diagnose and not any(map(holds_values, each)))


def _streams(layer: Any, policies: dict[str, Policy], key: Key | None) -> Streams | None:
    paths = [path for path, policy in policies.items() if policy.stochastic]
    # Without a key the contraction that draws from it says so.
    return Streams(key, paths, stack_of(layer)) if paths and key is not None else None
