"""Low-precision numerics for JAX.

    q = qjax.cast(x, "mxfp8")                  # an array, rounded to a format
    Model = qjax.quantize(Model, "mxfp8")      # a Flax model that trains in it
    print(qjax.report(model, batch))           # what it really computes

Importing this package loads JAX, NumPy and ml_dtypes only; Flax, optax and the others are
imported by the doors that need them, when they are called.
"""

import importlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from qjax import calibration as calibration
from qjax import contraction as contraction
from qjax import formats as formats
from qjax import qtypes as qtypes
from qjax import recipes as recipes
from qjax import rounding as rounding
from qjax.contraction import Gemm as Gemm
from qjax.contraction import Policy as Policy
from qjax.contraction import dot_general as dot_general
from qjax.contraction import einsum as einsum
from qjax.qtensor import QTensor as QTensor
from qjax.qtypes import QType as QType
from qjax.quantizer import Quantizer as Quantizer
from qjax.quantizer import cast as cast
from qjax.quantizer import encode as encode
from qjax.recipes import Recipe as Recipe
from qjax.recipes import Rule as Rule
from qjax.tiling import Tile as Tile

if TYPE_CHECKING:
    from qjax.recipes.report import Report

# Rooms that need more than JAX; imported when first asked for.
_LAZY = ("linen", "train")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"qjax.{name}")
    raise AttributeError(f"module 'qjax' has no attribute {name!r}")


def quantize(target: Any = None, recipe: Any = None) -> Any:
    """Makes a model compute by a recipe. The model that is given stays as it is.

    Called with a recipe alone it is a decorator:

        @qjax.quantize("mxfp8")
        class MLP(nn.Module): ...

    Args:
      target: A flax.linen Module class, or an unbound instance of one.
      recipe: Name of a recipe or type, a Recipe, a Policy, a Quantizer or a QType.

    Returns:
      What `target` was, computing by the recipe; a decorator where `target` is a recipe.

    Raises:
      ValueError: If the recipe's name is unknown; near names are listed.
      TypeError: If `target` is nothing that can be quantized.
    """
    if recipe is None:
        return _decorator(target)
    chosen = recipes.get(recipe)
    if _is_linen(target):
        door = importlib.import_module("qjax.linen")
        make = door.quantize_class if isinstance(target, type) else door.quantize_instance
        return make(target, chosen)
    raise TypeError(
        f"`quantize` takes a flax.linen Module class or instance, but {target!r} of type "
        f"{type(target).__name__} came. In other code call `qjax.dot_general` or `qjax.einsum` "
        "with a policy."
    )


def report(target: Any, *inputs: Any, strict: bool = False, **kwargs: Any) -> "Report":
    """Lists every contraction of a model and what its six operands are, without running it.

    Args:
      target: A flax.linen Module, quantized or not.
      *inputs: Example inputs: arrays or `jax.ShapeDtypeStruct`.
      strict: Whether to raise where a rule asked for quantization that does not happen.
      **kwargs: Passed on to the model; `variables=` gives its variables, if there are any.

    Raises:
      ValueError: If `strict`, and something asked for is not quantized, or a rule matches
        nothing.
      TypeError: If `target` is no model.
    """
    if not _is_linen(target) or isinstance(target, type):
        raise TypeError(
            f"`report` takes a flax.linen Module instance, but {target!r} came. "
            "Build the module with its fields, then report on it with an example input."
        )
    found = importlib.import_module("qjax.linen").report(target, *inputs, **kwargs)
    return found.check() if strict else found


def _decorator(recipe: Any) -> Callable[[Any], Any]:
    if recipe is None or _is_linen(recipe):
        raise TypeError(
            "`quantize` needs a recipe, but none came. Write `qjax.quantize(model, 'mxfp8')` or "
            "`@qjax.quantize('mxfp8')`; `qjax.recipes.names()` lists the names."
        )
    chosen = recipes.get(recipe)
    return lambda target: quantize(target, chosen)


def _is_linen(target: Any) -> bool:
    # Whoever holds a linen module has imported linen; others need not wait for it.
    linen = sys.modules.get("flax.linen")
    if linen is None:
        return False
    return isinstance(target, linen.Module) or (
        isinstance(target, type) and issubclass(target, linen.Module)
    )
