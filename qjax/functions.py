"""The door for any JAX function: Equinox, Haiku, or written by hand.

The function is traced when it is called, and its contractions are replaced in the traced
program; nothing of JAX is patched, so the function itself stays as it is. Paths come from
`jax.named_scope`. Flax modules have doors of their own, which see layers instead.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from qjax._typing import Key, PyTree
from qjax.contraction.outside import needs_variables
from qjax.contraction.record import enter_region
from qjax.recipes import Recipe
from qjax.recipes.elementwise import ElementwiseRewriter
from qjax.recipes.ledger import Ledger
from qjax.recipes.matching import Matching
from qjax.recipes.report import Report, build
from qjax.recipes.rewrite import Decision, Rewriter
from qjax.recipes.roles import Role
from qjax.recipes.stored import is_stored
from qjax.recipes.walk import path_of

Names = int | str | Sequence[int | str]
_NO_VALUES = (
    "The recipe {!r} has operands that learn or remember, but `quant` is None. Make their values "
    "with `quant = f.init(*args)` and pass them: `f(*args, quant=quant)`."
)


class QuantizedFunction:
    """A function whose contractions compute by a recipe.

    It takes what the original takes, weights also packed, and `quant_key=`, the key of
    stochastic roundings. It can be differentiated, mapped and compiled like any other; gradients
    are those of reverse mode, which have legs of their own, and may be differentiated in either
    mode. Outside of `jax.jit` it is traced at every call, so compile it:
    `jax.jit(qjax.quantize(f, recipe))`.
    Where the function differentiates inside, quantize what is differentiated instead.

    Rules see the paths that `jax.named_scope` writes. Linen modules write theirs, below the name
    of the class that is applied: "MLP/up". Float nnx modules write none: each of their contractions
    has the path "", where no rule by path matches, the exemption of logits of a named recipe
    included. Give such a module to its own door first, `qjax.quantize(module, recipe)`, and apply
    the result inside; its paths are kept. Or put `with jax.named_scope("lm_head"):` around calls.
    The report shows every path. A rule that matches nothing is listed there, and raises where
    `strict`, unless it is `optional`, as exemptions of named recipes are.

    Where operands learn or remember, their values are one more argument: `quant = f.init(*args)`
    makes them, `f(*args, quant=quant)` uses them, and `f.advance(*args, quant=quant)` gives the
    next states beside the result. They are dictionaries by collection: train `quant["params"]`
    as any parameters; the penalties of `quant["quant_penalties"]` belong to the loss; states of
    the backward pass are the cotangents of those in `quant["quant"]` (`qjax.train.memory`).

    Inside a `jax.custom_vjp` nothing can learn or remember: its rule states every gradient there
    is, and has none for values that it does not know. The devices of a `jax.shard_map` share what
    is learned, and states are joined by the largest.

    Attributes:
      function: The original function.
      recipe: What it computes in.
      weights: Positions and names of the arguments that hold weights.
      diagnostics: Whether facts about casts are collected, in `quant["quant_diagnostics"]`.
      elementwise: What the results of element-wise operations are rounded to; None for nothing.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        recipe: Recipe,
        weights: Names = (),
        diagnostics: bool = False,
        elementwise: Any = None,
    ):
        self.function = function
        self.recipe = recipe
        self.weights = (weights,) if isinstance(weights, int | str) else tuple(weights)
        self.diagnostics = diagnostics
        self.elementwise = elementwise
        _check_weights(function, self.weights)
        self._matching = Matching(recipe)
        rounds = elementwise is not None
        self._rewriter = (
            ElementwiseRewriter(self._choose, elementwise) if rounds else Rewriter(self._choose)
        )
        functools.update_wrapper(self, function, updated=())

    def __call__(
        self, *args: Any, quant: PyTree = None, quant_key: Key | None = None, **kwargs: Any
    ) -> Any:
        """Computes the function by its recipe.

        Raises:
          ValueError: If noise is drawn (by gradients: when they are taken) and `quant_key` is None;
            if the recipe learns or remembers and `quant` is None; if a contraction stands where it
            cannot be replaced; if no rule matches anything.
        """
        return self._run(quant, args, quant_key, kwargs)[0]

    def init(self, *args: Any, quant_key: Key | None = None, **kwargs: Any) -> dict[str, Any]:
        """Makes what the operands learn and remember, by running the function once.

        Args:
          *args: Arguments of the function; learned values start from what they give.
          quant_key: Key of stochastic roundings.
          **kwargs: The same by name.

        Returns:
          By collection ("params", "quant" ...) and place; empty where nothing is learned.
        """
        return self._run(Ledger(None, diagnose=self.diagnostics), args, quant_key, kwargs)[1]

    def advance(
        self, *args: Any, quant: PyTree, quant_key: Key | None = None, **kwargs: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Computes the function; returns its result, and `quant` with the next states."""
        return self._run(quant, args, quant_key, kwargs)

    def _run(self, quant: Any, args: tuple, key: Key | None, kwargs: dict[str, Any]) -> Any:
        call = _Call(self.function, args, kwargs)
        enter_region("", self.recipe)
        roles, ledger = call.roles(self.weights), quant
        if quant is None and not any(needs_variables(rule.policy) for rule in self.recipe.rules):
            ledger = None
        elif not isinstance(quant, Ledger):
            absent = _NO_VALUES.format(self.recipe.name) if quant is None else ""
            diagnose = self.diagnostics and quant is not None
            ledger = Ledger(quant or {}, diagnose=diagnose, absent=absent)
        apply = self._rewriter.apply
        leaves = apply(call, *call.arrays, key=key, roles=roles, ledger=ledger)
        self._matching.tell()
        taken = {} if ledger is None else {**(ledger.given or {}), **ledger.taken}
        return call.results(leaves), taken

    def _choose(self, op: str, scopes: tuple[str, ...]) -> Decision | None:
        path = path_of(scopes)
        rule = self._matching.rule(path, op)
        return None if rule is None else Decision(rule.policy, path, str(rule))


def quantize(
    function: Callable[..., Any],
    recipe: Recipe,
    *,
    weights: Names = (),
    diagnostics: bool = False,
    elementwise: Any = None,
) -> QuantizedFunction:
    """Gives the function that computes by `recipe`; see `QuantizedFunction`.

    Args:
      function: Function of arrays in pytrees; what is no array counts as static.
      recipe: What its contractions compute in, by `jax.named_scope` and operation. In a
        traced program `jnp.einsum`, `jnp.dot` and `@` are all "dot_general".
      weights: Positions or names of the arguments that hold weights. A contraction whose
        left operand comes from these alone, and whose right one does not, gets its policy
        with the sides exchanged. Where empty, the right operand is taken for the weight.
      diagnostics: Whether facts about every cast are collected; none are inside `custom_vjp`.
      elementwise: What the results of element-wise operations and of sums are rounded to, a
        Quantizer, a QType, a Format or a name such as "bfloat16"; None leaves them as they are
        (`recipes.elementwise` says which these are, and what becomes of gradients). What a
        contraction gives is `Gemm.result`'s business.

    Raises:
      ValueError: If `weights` names no argument of the function, or `elementwise` draws
        noise or remembers.
    """
    if isinstance(function, QuantizedFunction):
        function, weights = function.function, weights or function.weights
    return QuantizedFunction(function, recipe, weights, diagnostics, elementwise)


def report(function: Callable[..., Any], *inputs: PyTree, **kwargs: Any) -> Report:
    """Lists what every contraction of `function(*inputs, **kwargs)` computes in.

    Args:
      function: A function, quantized or not.
      *inputs: Example inputs; arrays or `jax.ShapeDtypeStruct`.
      **kwargs: Passed on to the function.
    """
    if isinstance(function, QuantizedFunction):
        # What was traced before would not be heard again.
        fresh = quantize(function.function, function.recipe, weights=function.weights)
        key = jax.random.key(0)
        making = _Call(functools.partial(fresh.init, quant_key=key), inputs, kwargs)
        values = making.results(jax.eval_shape(making, *making.arrays))
        kwargs = {**kwargs, "quant": values} if values else kwargs
        function = functools.partial(fresh, quant_key=key)
    call = _Call(function, inputs, kwargs)
    return build(call, *call.arrays, path_of=path_of)


def program(function: Callable[..., Any], **kwargs: Any) -> Callable[..., Any]:
    """A quantized function, to be traced and never run."""
    if not isinstance(function, QuantizedFunction):
        return functools.partial(function, **kwargs)
    key = jax.random.key(0)
    # Built anew, it needs no values of operands.
    return lambda *args: function._run(Ledger(None), args, key, kwargs)[0]


@dataclasses.dataclass
class _Call:
    """A call as a function of its arrays alone; the rest of its arguments is static."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __post_init__(self):
        given = (self.args, self.kwargs)
        self._paths, self._tree = jax.tree.flatten_with_path(given, is_leaf=is_stored)
        self._dynamic = [_is_array(leaf) for _, leaf in self._paths]

    @property
    def arrays(self) -> list[Any]:
        return [leaf for (_, leaf), moves in zip(self._paths, self._dynamic) if moves]

    def roles(self, weights: Sequence[int | str]) -> list[Role]:
        """Roles of the arrays."""
        names = _parameters(self.function)
        roles = []
        for (path, _), moves in zip(self._paths, self._dynamic):
            place = path[1].idx if path[0].idx == 0 else path[1].key
            name = names[place] if isinstance(place, int) and place < len(names) else place
            place = names.index(place) if place in names else place
            held = place in weights or name in weights
            if moves:
                roles.append(Role.WEIGHT if held else Role.ACTIVATION)
        return roles

    def __call__(self, *arrays: Any) -> list[Any]:
        given = iter(arrays)
        leaves = [next(given) if m else leaf for (_, leaf), m in zip(self._paths, self._dynamic)]
        args, kwargs = jax.tree.unflatten(self._tree, leaves)
        out, self._out_tree = jax.tree.flatten(self.function(*args, **kwargs))
        self._out = [None if _is_array(leaf) else (leaf,) for leaf in out]
        return [leaf for leaf in out if _is_array(leaf)]

    def results(self, arrays: Sequence[Any]) -> Any:
        """What the function returned, with `arrays` for its arrays."""
        given = iter(arrays)
        leaves = [next(given) if static is None else static[0] for static in self._out]
        return jax.tree.unflatten(self._out_tree, leaves)


def _is_array(x: Any) -> bool:
    kinds = jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct
    return isinstance(x, kinds) or is_stored(x)


def _parameters(function: Callable[..., Any]) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # Some callables written in C have no signature.
        return []


def _check_weights(function: Callable[..., Any], weights: Sequence[int | str]) -> None:
    names = _parameters(function)
    for weight in weights:
        if not names or weight in names:
            continue
        if isinstance(weight, int) and (0 <= weight < len(names) or _takes_any(function, weight)):
            continue
        raise ValueError(
            f"`weights` names the argument {weight!r}, but the function takes {names}. "
            "Name its arguments, or give their positions, counted from 0."
        )


def _takes_any(function: Callable[..., Any], position: int) -> bool:
    kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
    return position >= 0 and inspect.Parameter.VAR_POSITIONAL in kinds
