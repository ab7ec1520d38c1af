"""The door for flax.linen: modules whose layers compute by a recipe.

`quantize` derives a class whose methods enter an interceptor *inside* whatever jit, scan
or remat calls them; around a function that is already traced an interceptor would do
nothing. For the length of one call of a layer the interceptor fills the layer's own seam
(its `dot_general`, its attention function) and takes it out again. Nothing of JAX or Flax
is patched, and a module that was not quantized is never touched.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from qjax._typing import Key, PyTree
from qjax.linen.derived import derive, original
from qjax.linen.noise import STREAM
from qjax.linen.paths import Paths, path_of
from qjax.recipes import Recipe
from qjax.recipes.report import Report, build


def quantize(target: Any, recipe: Recipe, *, diagnostics: bool = False) -> Any:
    """Gives the class, or the instance, that computes by `recipe`.

    Args:
      target: A module's class, or an unbound instance.
      recipe: What it computes in.
      diagnostics: Whether facts about every cast are collected, in `quant_diagnostics`.
    """
    if isinstance(target, type):
        return quantize_class(target, recipe, diagnostics=diagnostics)
    return quantize_instance(target, recipe, diagnostics=diagnostics)


def quantize_class(
    cls: type[nn.Module], recipe: Recipe, *, diagnostics: bool = False
) -> type[nn.Module]:
    """Derives the class whose layers compute by `recipe`; `cls` stays as it is.

    The class keeps its name, so parameters keep their paths. A class that is quantized
    already takes the new recipe in place of its own.
    """
    return derive(original(cls), recipe, diagnostics)


def quantize_instance(module: nn.Module, recipe: Recipe, *, diagnostics: bool = False) -> nn.Module:
    """The module with the same fields, of the class that computes by `recipe`.

    It does so in whatever method it is entered by, also one given to `apply` as `method=`, and so
    does a layer that is called by hand on a bound module: `model.bind(variables).layer(x)`. A
    method of the float class called as a function of a bound module, `Model.method(bound, x)`,
    is the float one.

    Flax traces a class with a method under `nn.jit` once for all its modules in a model that have
    the same fields and inputs: rules that tell such modules apart by their paths hold as for the
    first one, under whose path the report lists them all.

    Raises:
      ValueError: If `module` is bound to variables.
    """
    if module.scope is not None:
        raise ValueError(
            f"`quantize` takes a linen module as it is before `init`, but {type(module).__name__} "
            "is bound to variables. Quantize the unbound module, then bind or apply it."
        )
    fields = type(module).__dataclass_fields__
    values = {
        name: getattr(module, name)
        for name, field in fields.items()
        if field.init and name not in ("parent", "name")
    }
    cls = quantize_class(type(module), recipe, diagnostics=diagnostics)
    return cls(**values, name=module.name)


def report(
    module: nn.Module,
    *inputs: PyTree,
    variables: PyTree = None,
    rngs: dict[str, Key] | None = None,
    **kwargs: Any,
) -> Report:
    """Lists what every contraction of `module(*inputs, **kwargs)` computes in.

    Args:
      module: An unbound module, quantized or not.
      *inputs: Example inputs; arrays or `jax.ShapeDtypeStruct`.
      variables: Variables of the module, or their shapes; found by tracing `init` if None.
      rngs: Keys of the streams that the module draws from, where they are others than
        "params", "dropout" and "quant".
      **kwargs: Passed on to the module, such as `train=False`.
    """
    if variables is None:
        keys = _rngs(rngs)
        variables = jax.eval_shape(lambda *xs: module.init(keys, *xs, **kwargs), *inputs)
    apply = program(module, rngs=rngs, **kwargs)
    with nn.intercept_methods(Paths().leave):
        return build(apply, variables, *inputs, path_of=path_of)


def program(
    module: nn.Module, *, rngs: dict[str, Key] | None = None, **kwargs: Any
) -> Callable[..., Any]:
    """The module as a function of its variables and inputs, to be traced and never run."""
    keys = _rngs(rngs)

    def apply(variables: PyTree, *xs: Any) -> Any:
        return module.apply(variables, *xs, rngs=keys, mutable=True, **kwargs)

    return apply


def _rngs(rngs: dict[str, Key] | None) -> Any:
    return dict.fromkeys(("params", "dropout", STREAM), jax.random.key(0)) | (rngs or {})
