"""The door for flax.nnx: modules whose layers compute by a recipe.

`quantize` clones the graph of a module, which shares every array with the original, walks
the clone and fills each layer's own seam (its `dot_general`, `einsum_op`,
`conv_general_dilated` or `attention_fn`). Layers that contract without a seam are given a
class derived from their own, whose call is traced and rewritten; this is safe because they
only read their parameters. No forward pass is run.
"""

import contextlib
import dataclasses
import functools
import types
import zlib
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from qjax._typing import Array, Key, PyTree
from qjax.contraction import Policy, conv_general_dilated, dot_general, einsum
from qjax.contraction.record import enter_region, site
from qjax.recipes import Recipe
from qjax.recipes.matching import Matching
from qjax.recipes.report import Report, build
from qjax.recipes.rewrite import Decision, rewrite

STREAM = "quant"
_DOORS: dict[str, Callable[..., Array]] = {
    "dot_general": dot_general,
    "einsum": einsum,
    "conv_general_dilated": conv_general_dilated,
}
# By layer: the attribute that is its seam, and what rules call the operation.
_SEAMS: dict[type[nnx.Module], tuple[str, str]] = {
    nnx.Linear: ("dot_general", "dot_general"),
    nnx.LinearGeneral: ("dot_general", "dot_general"),
    nnx.Einsum: ("einsum_op", "einsum"),
    nnx.Conv: ("conv_general_dilated", "conv_general_dilated"),
}
_DEFAULTS = (None, jax.lax.dot_general, jax.numpy.einsum, jax.lax.conv_general_dilated)
# By layer without a seam: the methods that contract, and what rules call the operation.
_BARE: dict[type[nnx.Module], tuple[tuple[str, ...], str]] = {
    nnx.ConvTranspose: (("__call__",), "conv_general_dilated"),
    nnx.LoRA: (("_low_rank",), "dot_general"),
    nnx.Embed: (("attend",), "dot_general"),
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

    def __call__(self, *args: Any, key: Key | None = None, **kwargs: Any) -> Array:
        if self.op == "einsum" and kwargs.get("out_sharding") is None:
            kwargs.pop("out_sharding", None)
        with _named(self.path), site(self.path, self.rule):
            return _DOORS[self.op](*args, **kwargs, policy=self.policy, key=key)


class NoisySeam(nnx.Module):
    """A seam that rounds stochastically: every call draws a key from a stream of its own.

    Attributes:
      seam: The seam.
      stream: The stream; its state belongs to the model, like that of dropout.
    """

    def __init__(self, seam: Any, stream: nnx.RngStream):
        self.seam = seam
        self.stream = stream

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.seam(*args, key=self.stream(), **kwargs)


@dataclasses.dataclass(frozen=True)
class AttentionSeam:
    """An attention function whose contractions compute by the rules for "qk" and "av"."""

    function: Callable[..., Array]
    path: str
    decisions: tuple[tuple[str, Decision], ...]

    def __call__(self, query: Array, key_: Array, value: Array, *, key=None, **kwargs) -> Array:
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
        return call(query, key_, value, arrays, key=key)


def _named(path: str) -> contextlib.AbstractContextManager[Any]:
    return jax.named_scope(path) if path else contextlib.nullcontext()


def _call_with(function, kwargs, query, key, value, arrays):
    return function(query, key, value, **{**kwargs, **arrays})


def quantize(
    module: nnx.Module, recipe: Recipe, *, rngs: nnx.Rngs | Key | int | None = None
) -> nnx.Module:
    """Gives a module like `module` whose layers compute by `recipe`.

    The new module shares its arrays with `module` until either is updated; its parameters
    have the same paths.

    Args:
      module: A module; it stays as it is.
      recipe: What its layers compute in, by paths with slashes: "blocks/0/linear".
      rngs: Where stochastic roundings draw their keys from: the stream "quant" of an
        `nnx.Rngs`, a key, or a seed. Each layer has its own stream, derived from its path.

    Raises:
      ValueError: If a rule rounds stochastically and `rngs` is None, or if no rule matches.
    """
    clone: Any = nnx.clone(module)
    matching = Matching(recipe)
    key = _base_key(rngs)
    layers = [("/".join(map(str, path)), one) for path, one in nnx.iter_modules(clone)]
    for path, layer in sorted(layers, key=lambda pair: pair[0]):
        _fill(layer, path, matching, key)
    matching.tell(stacklevel=4)
    clone.__qjax_recipe__ = nnx.static(recipe)
    return clone


def report(module: nnx.Module, *inputs: PyTree, **kwargs: Any) -> Report:
    """Lists what every contraction of `module(*inputs, **kwargs)` computes in.

    Contractions in a user's own modules have no path: nnx leaves no names in a program.

    Args:
      module: A module, quantized or not.
      *inputs: Example inputs; arrays or `jax.ShapeDtypeStruct`.
      **kwargs: Passed on to the module.
    """
    graph, state = nnx.split(module)
    recipe = getattr(module, "__qjax_recipe__", None)

    def apply(state: Any, *xs: Any) -> Any:
        if recipe is not None:
            enter_region("", recipe)
        return nnx.merge(graph, state)(*xs, **kwargs)

    return build(apply, state, *inputs, path_of="/".join)


def _base_key(rngs: nnx.Rngs | Key | int | None) -> Key | None:
    if rngs is None or isinstance(rngs, jax.Array):
        return rngs
    if isinstance(rngs, int):
        return jax.random.key(rngs)
    return rngs[STREAM]() if STREAM in rngs else rngs()


def _fill(layer: Any, path: str, matching: Matching, key: Key | None) -> None:
    """Makes one layer compute by the rules; other modules are left alone."""
    bare: Any = layer
    for kind, (attribute, op) in _SEAMS.items():
        if isinstance(layer, kind):
            own = getattr(layer, attribute)
            if own not in _DEFAULTS and not isinstance(own, Seam | NoisySeam):
                return  # The user has filled it: that is a choice, and reports show it.
            if getattr(layer, "dot_general_cls", None) is not None:
                return
            rule = matching.rule(path, op)
            # Where nothing is quantized the seam still says in a program where it stands.
            policy, name = (Policy(), "") if rule is None else (rule.policy, str(rule))
            setattr(layer, attribute, _noisy(Seam(op, policy, path, name), path, key))
    if isinstance(layer, nnx.MultiHeadAttention):
        _fill_attention(layer, path, matching, key)
    for kind, (methods, op) in _BARE.items():
        if isinstance(layer, kind):
            rule = matching.rule(path, op)
            bare.__class__ = getattr(layer, "__qjax_base__", type(layer))
            if rule is not None:
                decision = Decision(rule.policy, path, str(rule), op)
                bare.__class__ = _derived(type(bare), methods)
                bare.__qjax__ = decision
                bare.__qjax_key__ = nnx.data(_stream(path, key, rule.policy))


def _fill_attention(layer: Any, path: str, matching: Matching, key: Key | None) -> None:
    own = layer.attention_fn
    own = own.seam if isinstance(own, NoisySeam) else own
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
        layer.attention_fn = _noisy(seam, path, key)


def _noisy(seam: Any, path: str, key: Key | None) -> Any:
    policies = [seam.policy] if isinstance(seam, Seam) else [d.policy for _, d in seam.decisions]
    stream = next((s for p in policies if (s := _stream(path, key, p))), None)
    return seam if stream is None else nnx.data(NoisySeam(seam, stream))


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
            decision, stream = self.__qjax__, self.__qjax_key__
            key = None if stream is None else stream()
            call = rewrite(functools.partial(original, self, **kwargs), lambda op, scopes: decision)
            return call(*arrays, key=key)

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
