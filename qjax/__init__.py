"""Low-precision numerics for JAX.

    q = qjax.cast(x, "mxfp8")                  # an array, rounded to a format
    Model = qjax.quantize(Model, "mxfp8")      # a Flax model that trains in it
    print(qjax.report(model, batch))           # what it really computes

Importing this package loads JAX, NumPy and ml_dtypes only; Flax, optax and the others are
imported by the doors that need them, when they are called.
"""

import importlib
import reprlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from qjax import calibration as calibration
from qjax import contraction as contraction
from qjax import diagnostics as diagnostics
from qjax import formats as formats
from qjax import gradients as gradients
from qjax import qtypes as qtypes
from qjax import recipes as recipes
from qjax import rounding as rounding
from qjax.contraction import Gemm as Gemm
from qjax.contraction import Policy as Policy
from qjax.contraction import conv_general_dilated as conv_general_dilated
from qjax.contraction import dot_general as dot_general
from qjax.contraction import einsum as einsum
from qjax.contraction import matmul as matmul
from qjax.contraction import operands as operands
from qjax.contraction import ragged_dot as ragged_dot
from qjax.qtensor import QTensor as QTensor
from qjax.qtypes import QType as QType
from qjax.quantizer import Quantizer as Quantizer
from qjax.quantizer import cast as cast
from qjax.quantizer import encode as encode
from qjax.recipes import Recipe as Recipe
from qjax.recipes import Rule as Rule
from qjax.recipes.matching import listing
from qjax.tiling import Tile as Tile

if TYPE_CHECKING:
    from qjax.recipes.report import Report

# Rooms that need more than JAX; imported when first asked for.
_LAZY = ("cost", "functions", "linen", "nnx", "ptq", "serving", "train")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"qjax.{name}")
    raise AttributeError(f"module 'qjax' has no attribute {name!r}")


def quantize(target: Any = None, recipe: Any = None, **options: Any) -> Any:
    """Makes a model compute by a recipe. What is given stays as it is.

    Called with a recipe alone it is a decorator:

        @qjax.quantize("mxfp8")
        class MLP(nn.Module): ...

    Args:
      target: A flax.linen Module class or unbound instance; an nnx Module; or a function.
      recipe: Name of a recipe or type, a Recipe, a Policy, a Quantizer or a QType.
      **options: `diagnostics=True` collects facts about every cast in training (linen modules),
        which steps of `qjax.train` report. For functions `weights=`, the positions or names of
        the arguments that hold weights, and `elementwise="bfloat16"`, which rounds what is
        computed between contractions. For nnx modules `rngs=`, which stochastic recipes
        draw their noise from.

    Returns:
      What `target` was, computing by the recipe; a decorator where `target` is a recipe.

    Raises:
      ValueError: If the recipe's name is unknown; near names are listed.
      TypeError: If `target` is nothing that can be quantized.
    """
    if recipe is None:
        return _decorator(target, options)
    chosen = recipes.get(recipe)
    return _door(target, "quantize").quantize(target, chosen, **options)


def report(target: Any, *inputs: Any, strict: bool = False, **kwargs: Any) -> "Report":
    """Lists every contraction of a model and what its six operands are, without running it.

    Args:
      target: A flax.linen Module, an nnx Module or a function, quantized or not.
      *inputs: Example inputs: arrays or `jax.ShapeDtypeStruct`.
      strict: Whether to raise where a rule asked for quantization that does not happen.
      **kwargs: Passed on to the model; `variables=` gives those of a linen module, if there
        are any.

    Raises:
      ValueError: If `strict`, and something asked for is not quantized, or a rule matches
        nothing.
      TypeError: If `target` is no model.
    """
    with listing():
        found = _door(target, "report").report(target, *inputs, **kwargs)
    return found.check() if strict else found


def pack(
    variables: Any,
    recipe: Any,
    *,
    model: Any = None,
    inputs: Any = (),
    key: Any = None,
    strict: bool = True,
    **kwargs: Any,
) -> Any:
    """Turns the weights of a model into QTensors, as `recipe` quantizes them forward.

    The quantized model computes the same bits from them, and decodes one layer at a time:

        packed = qjax.pack(variables, recipe, model=model, inputs=(x,))
        y = qjax.quantize(model, recipe).apply(packed, x)

    The model is traced, never run, to see which leaves are weights of which contraction.
    Weights that the recipe transforms forward are transformed first, and say so (`QTensor.basis`).

    Args:
      variables: Variables of a linen module, or their shapes under `jax.eval_shape`; an nnx
        module; or the first argument of a function, weights in a pytree.
      recipe: As for `quantize`.
      model: The linen module or the function; an nnx module is its own. Without it only what
        names and shapes decide is packed: matrices called "kernel".
      inputs: Example inputs, arrays or `jax.ShapeDtypeStruct`: a tuple, or a dictionary by name.
      key: Key of the noise, where the recipe rounds weights stochastically.
      strict: Whether to raise where a weight that a rule quantizes cannot be packed; if not,
        it stays an array, a warning says so, and it is quantized at every call.
      **kwargs: Passed on to the model.

    Returns:
      What `variables` was, with QTensors for packed weights; for an nnx module, a module
      that computes by `recipe`.

    Raises:
      ValueError: If a weight cannot be packed and `strict`, naming it and why; if none is
        found.
    """
    chosen, settings = recipes.get(recipe), {"key": key, "strict": strict}
    if isinstance(inputs, dict):
        inputs, kwargs = (), {**kwargs, **inputs}
    return _packed(variables, chosen, model, inputs, settings, kwargs)


def _packed(
    variables: Any, recipe: Recipe, model: Any, inputs: Any, settings: Any, kwargs: dict[str, Any]
) -> Any:
    """Packs the weights of a model, of what is its own, or what speaks for itself by names."""
    serving = importlib.import_module("qjax.serving")
    if model is not None:
        door = _door(model, "pack")
        options = {"weights": 0} if door.__name__ == "qjax.functions" else {}
        apply = door.program(door.quantize(model, recipe, **options), **kwargs)
        return serving.pack(apply, variables, inputs, **settings)
    if isinstance(variables, dict):
        return serving.pack_by_names(variables, recipe, key=settings["key"])
    door = _door(variables, "pack")
    return door.pack(variables, recipe, inputs, serving.pack, settings, **kwargs)


def capture(
    model: Any, variables: Any, batches: Any, *, path: str = ".*", bins: int = 2048, **kwargs: Any
) -> Any:
    """Sums up what the operands of every contraction are, over batches of inputs.

    The model computes in float; its operands are looked at on the way. From what was seen
    follow static scales, `statistics.static(recipe)`, and bounds by percentile.

    Args:
      model: A linen module, an nnx module, or a function whose first argument holds weights.
      variables: Of the linen module, or the function's first argument; None for nnx.
      batches: Inputs, a tuple for every call (or one array); all of them are kept and read
        twice, first for the largest magnitudes, then for histograms up to them.
      path: Regular expression that the paths of contractions of interest match as a whole.
      bins: Number of bins of the histograms.
      **kwargs: Passed on to the model.

    Returns:
      `qjax.ptq.Statistics`: a pytree of summaries by path and operand, such as
      "decoder/mlp/wi/lhs".

    Raises:
      ValueError: If no batch came, or nothing matches `path`.
    """
    ptq = importlib.import_module("qjax.ptq")
    door = _door(model, "capture")
    options = {"weights": 0} if door.__name__ == "qjax.functions" else {}

    def observed(recipe: Recipe) -> Callable[..., Any]:
        quantized = door.quantize(model, recipe, **options)
        if variables is None:
            return door.program(quantized, **kwargs)
        apply = door.program(quantized, **kwargs)
        return lambda *xs: apply(variables, *xs)

    inputs = [batch if isinstance(batch, tuple) else (batch,) for batch in batches]
    return ptq.capture(observed, inputs, path=path, bins=bins)


def _decorator(recipe: Any, options: dict[str, Any]) -> Callable[[Any], Any]:
    if recipe is None or callable(recipe):
        raise TypeError(
            "`quantize` needs a recipe, but none came. Write `qjax.quantize(model, 'mxfp8')` or "
            "`@qjax.quantize('mxfp8')`; `qjax.recipes.names()` lists the names."
        )
    chosen = recipes.get(recipe)
    return lambda target: quantize(target, chosen, **options)


def _door(target: Any, verb: str) -> Any:
    """The room that can quantize `target`."""
    for name in ("linen", "nnx"):
        # Whoever holds a module of Flax has imported it; others need not wait for it.
        flax = sys.modules.get(f"flax.{name}")
        if flax is None:
            continue
        is_class = isinstance(target, type) and issubclass(target, flax.Module)
        if is_class and (name == "nnx" or verb == "report"):
            raise TypeError(
                f"`{verb}` takes a module, but the class {target.__name__} came. Build one with "
                f"its fields first: `qjax.{verb}({target.__name__}(...), ...)`."
            )
        if is_class or isinstance(target, flax.Module):
            return importlib.import_module(f"qjax.{name}")
    if not callable(target) or isinstance(target, type):
        raise TypeError(
            f"`{verb}` takes a module of flax.linen or flax.nnx, or a function, but "
            f"{reprlib.repr(target)[:80]} of type {type(target).__name__} came."
        )
    return importlib.import_module("qjax.functions")
