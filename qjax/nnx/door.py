"""The door for flax.nnx: modules whose layers compute by a recipe.

`quantize` clones the graph of a module, which shares every array with the original, walks
the clone and fills each layer's own seam (its `dot_general`, `einsum_op`,
`conv_general_dilated` or `attention_fn`). No forward pass is run, unless operands learn or
remember: their first values are found from an example.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import nnx

from qjax._typing import Key, PyTree
from qjax.contraction.record import enter_region
from qjax.nnx.fill import fill
from qjax.nnx.store import Store, stores
from qjax.nnx.streams import STREAM
from qjax.recipes import Recipe
from qjax.recipes.matching import Matching
from qjax.recipes.report import Report, build
from qjax.recipes.walk import path_of


def quantize(
    module: nnx.Module,
    recipe: Recipe,
    *,
    rngs: nnx.Rngs | Key | int | None = None,
    example: Sequence[Any] | None = None,
    diagnostics: bool = False,
) -> nnx.Module:
    """Gives a module like `module` whose layers compute by `recipe`.

    The new module shares its arrays with `module` until either is updated; its parameters
    have the same paths.

    Args:
      module: A module; it stays as it is.
      recipe: What its layers compute in, by paths with slashes: "blocks/0/linear".
      rngs: Where stochastic roundings draw their keys from: the stream "quant" of an
        `nnx.Rngs`, a key, or a seed. Each layer has its own stream, derived from its path.
      example: Positional arguments of the module, on which it is run once to find the first
        values of operands that learn or remember; see `qjax.nnx.Cotangent` for their training.
      diagnostics: Whether facts about every cast are collected; this needs an example too.

    Raises:
      ValueError: If a rule learns or remembers and `example` is None, or if no rule matches;
        when the module is called or differentiated, if that draws noise and `rngs` is None.
    """
    clone, held = _filled(module, recipe, _base_key(rngs), diagnostics)
    if held:
        _make_values(clone, held, recipe, example)
    return clone


def _filled(
    module: nnx.Module, recipe: Recipe, key: Key | None, diagnostics: bool = False
) -> tuple[Any, list[Store]]:
    """The module by a recipe, and the stores whose values are still to be made."""
    clone: Any = nnx.clone(module)
    matching = Matching(recipe)
    layers = [("/".join(map(str, path)), one) for path, one in nnx.iter_modules(clone)]
    for path, layer in sorted(layers, key=lambda pair: pair[0]):
        fill(layer, path, matching, key, diagnostics)
    matching.tell(stacklevel=5)
    clone.__qjax_recipe__ = nnx.static(recipe)
    return clone, [store for store in stores(clone) if store.building]


def _make_values(
    module: Any, held: list[Store], recipe: Recipe, example: Sequence[Any] | None
) -> None:
    if example is None:
        raise ValueError(
            f"The recipe {recipe.name!r} has operands that learn or remember (or `diagnostics` is "
            "on), whose first values are found by running the module once, but `example` is None. "
            "Write `qjax.quantize(model, recipe, example=(inputs,))`."
        )
    others = nnx.state(module, nnx.Not(nnx.Param))
    kept = jax.tree.map(lambda leaf: leaf, others)
    module(*example)
    nnx.update(module, kept)  # Batch statistics and streams of keys stay as they were.
    for store in held:
        store.building = False


def report(module: nnx.Module, *inputs: PyTree, **kwargs: Any) -> Report:
    """Lists what every contraction of `module(*inputs, **kwargs)` computes in.

    What a module contracts by its own code, such as `jnp.einsum`, is a row at its path.

    Args:
      module: A module, quantized or not.
      *inputs: Example inputs; arrays or `jax.ShapeDtypeStruct`.
      **kwargs: Passed on to the module.
    """
    graph, state = nnx.split(module)
    recipe = getattr(module, "__qjax_recipe__", None)

    def apply(state: Any, *xs: Any) -> Any:
        model = nnx.merge(graph, state)
        if recipe is None:
            model = quantize(model, _NOTHING)  # Only says where everything stands.
        else:
            enter_region("", recipe)
        return model(*xs, **_own(kwargs))

    return build(apply, state, *inputs, path_of=path_of)


_NOTHING = Recipe(())


def program(module: nnx.Module, **kwargs: Any) -> Callable[..., Any]:
    """The module as a function of its inputs; what it writes is thrown away."""
    graph, state = nnx.split(module)

    def apply(*xs: Any) -> Any:
        return nnx.merge(graph, state)(*xs, **_own(kwargs))

    return apply


def _own(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments for one trace, such as `rngs=`, whose counts nothing else may move meanwhile."""
    return nnx.clone(kwargs)


def _base_key(rngs: nnx.Rngs | Key | int | None) -> Key | None:
    if rngs is None or isinstance(rngs, jax.Array):
        return rngs
    if isinstance(rngs, int):
        return jax.random.key(rngs)
    return rngs[STREAM]() if STREAM in rngs else rngs()


def pack(
    module: nnx.Module,
    recipe: Recipe,
    inputs: Sequence[Any],
    packing: Callable[..., Any],
    settings: dict[str, Any],
    **kwargs: Any,
) -> nnx.Module:
    """Gives a module that computes by `recipe` on weights that `packing` packs.

    Args:
      module: A module; it stays as it is.
      recipe: What its layers compute in.
      inputs: Example inputs; arrays or `jax.ShapeDtypeStruct`.
      packing: `qjax.serving.pack`, which finds the weights and packs them.
      settings: Its settings; `key` is also what stochastic roundings draw from.
      **kwargs: Passed on to the module.

    Raises:
      ValueError: If operands learn or remember: a packed module has no values of theirs.
    """
    graph, state = nnx.split(module)

    def model(state: Any) -> nnx.Module:
        packed, held = _filled(nnx.merge(graph, state), recipe, _base_key(settings["key"]))
        if held:
            raise ValueError(
                f"`pack` was given the recipe {recipe.name!r}, which has operands that learn or "
                "remember, and a packed nnx module keeps no values of theirs. Give it fixed "
                "bounds for activations, or pack the variables of a linen module."
            )
        return packed

    def apply(state: Any, *xs: Any) -> Any:
        return model(state)(*xs, **_own(kwargs))  # type: ignore[operator]

    return model(packing(apply, state, inputs, **settings))
