"""The door for flax.linen: modules whose layers compute by a recipe.

`quantize` derives a class whose methods enter an interceptor *inside* whatever jit, scan
or remat calls them; around a function that is already traced an interceptor would do
nothing. For the length of one call of a layer the interceptor fills the layer's own seam
(its `dot_general`, its attention function) and takes it out again. Nothing of JAX or Flax
is patched, and a module that was not quantized is never touched.
"""

import contextlib
import contextvars
import functools
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax

from qjax._typing import Key, PyTree
from qjax.contraction.outside import needs_variables
from qjax.contraction.record import enter_region
from qjax.linen.bare import call_rewritten, is_inside, op_of, refuse_packed
from qjax.linen.calls import Call, Calls
from qjax.linen.noise import STREAM, noise_of
from qjax.linen.paths import Names
from qjax.linen.pickling import reducing
from qjax.linen.seams import Choice, seam_of
from qjax.linen.variables import LayerVariables
from qjax.recipes import Recipe
from qjax.recipes.matching import Matching
from qjax.recipes.report import Report, build

_RECIPE = "__qjax_recipe__"


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
    base = cls.__mro__[1] if _RECIPE in cls.__dict__ else cls
    again = functools.partial(quantize_class, base, recipe, diagnostics=diagnostics)
    namespace: dict[str, Any] = {
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "__reduce_ex__": reducing(base, again),
        _RECIPE: recipe,
    }
    for name in _methods(base):
        namespace[name] = _entering(base, getattr(base, name), recipe, diagnostics)
    for name in ("apply", "init", "init_with_output"):
        namespace[name] = _entering_through(base, name, recipe, diagnostics)
    return types.new_class(base.__name__, (base,), exec_body=lambda body: body.update(namespace))


def quantize_instance(module: nn.Module, recipe: Recipe, *, diagnostics: bool = False) -> nn.Module:
    """The module with the same fields, of the class that computes by `recipe`.

    It does so in whatever method it is entered by, also one given to `apply` as `method=`. A layer
    that is called by hand on a bound module, `model.bind(variables).layer(x)`, enters none.

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
    apply, names = program(module, rngs=rngs, **kwargs), Names()
    with nn.intercept_methods(names.hear):
        return build(apply, variables, *inputs, path_of=names.path_of)


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


def _methods(cls: type[nn.Module]) -> list[str]:
    """Names of the methods that a caller may enter the module by."""
    found: dict[str, Any] = {}
    for parent in reversed(cls.__mro__[: cls.__mro__.index(nn.Module)]):
        found.update(parent.__dict__)
    return [
        name
        for name, value in found.items()
        if inspect.isfunction(value)
        and (name == "__call__" or not name.startswith("__"))
        and name != "setup"
        and not getattr(value, "nowrap", False)
    ]


def _entering(
    base: type[nn.Module], original: Callable[..., Any], recipe: Recipe, diagnose: bool
) -> Callable[..., Any]:
    name = original.__name__

    # Not wrapped by Flax: entering an interceptor is no call of the module.
    @nn.nowrap
    def method(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with _recipe_of(self, name, recipe, diagnose), _shared_loops_named(recipe):
            return original(self, *args, **kwargs)

    method.__name__, method.__doc__ = name, original.__doc__
    method.__qualname__ = f"{base.__qualname__}.{name}"
    method.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
    return method


def _entering_through(
    base: type[nn.Module], name: str, recipe: Recipe, diagnose: bool
) -> Callable[..., Any]:
    """Returns `apply` or its like, which may be given any function of the bound module."""
    original = getattr(base, name)

    @nn.nowrap
    @functools.wraps(original)
    def entry(self: nn.Module, *args: Any, method: Any = None, **kwargs: Any) -> Any:
        if inspect.isfunction(method):  # such as that of the class that was quantized
            method = _entering(base, method, recipe, diagnose)
        return original(self, *args, method=method, **kwargs)

    return entry


@contextlib.contextmanager
def _shared_loops_named(recipe: Recipe) -> Iterator[None]:
    """Says what an error of Flax about a loop is about, where this recipe is the reason."""
    try:
        yield
    except ValueError as error:
        if "data dependency on the scan body" not in str(error):
            raise
        if not any(needs_variables(rule.policy) for rule in recipe.rules):
            raise
        raise ValueError(
            f"The recipe {recipe.name!r} has operands that find their first values in what they "
            "see, but a layer of it stands in an `nn.scan` or `nn.RNN` whose turns share their "
            "parameters, and there Flax lets `init` see nothing that moves. Quantize the function "
            "that applies the module: `qjax.quantize(model.apply, recipe, weights=0)`; or exempt "
            "the layer by a rule."
        ) from error


_entered: contextvars.ContextVar[nn.Module | None] = contextvars.ContextVar(
    "qjax_entered", default=None
)


@contextlib.contextmanager
def _recipe_of(root: nn.Module, method: str, recipe: Recipe, diagnose: bool) -> Iterator[None]:
    """Makes the layers below `root` compute by `recipe`, inside the block."""
    if root.scope is None or _entered.get() is root or is_inside():
        yield  # Unbound: the module is only being built. Entered: its rules hold already.
        return
    matching = Matching(recipe)
    enter_region("/".join(root.path), recipe)
    token = _entered.set(root)
    try:
        with nn.intercept_methods(_interceptor(root, matching, diagnose)):
            yield
    finally:
        _entered.reset(token)
    if method == "__call__":
        matching.tell(stacklevel=4)


def _interceptor(root: nn.Module, matching: Matching, diagnose: bool):
    depth = len(root.path)
    calls = Calls(root)

    def intercept(next_fun, args, kwargs, context):
        module = context.module
        with calls.entering(module) as call:
            seam = seam_of(module, context.method_name)
            bare = op_of(module, context.method_name)
            if (seam is None and bare is None) or is_inside() or call.is_thrown_away:
                return next_fun(*args, **kwargs)

            def choose(op: str, part: str = "") -> Choice | None:
                full = (*call.path, part) if part else call.path
                rule = matching.rule("/".join(full[depth:]), op)
                if rule is None:
                    return None
                noise = noise_of(call.host, root) if rule.policy.stochastic else None
                held = "_".join(name for name in (call.part, part) if name)
                variables = LayerVariables(call.host, held, diagnose)
                return Choice(rule.policy, "/".join(full), str(rule), noise, variables)

            if bare is not None:
                run = functools.partial(next_fun, *args, **kwargs)
                return _call_bare(call, context.method_name, bare, choose(bare), run, args, kwargs)
            assert seam is not None
            with seam(module, choose):
                return next_fun(*args, **kwargs)

    return intercept


def _call_bare(
    call: Call,
    method: str,
    op: str,
    choice: Choice | None,
    run: Callable[[], Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Calls a layer without a seam by `choice`; `run` calls it as it is."""
    if choice is None:
        refuse_packed(call.module, op)
        return run()
    holds = choice.variables.diagnose or needs_variables(choice.policy)
    if holds and call.applied is not None:
        raise ValueError(
            f"The layer {choice.path!r} computes by a recipe that learns, remembers or collects "
            "facts, but it is applied by hand, and its type has no place for values that are not "
            "its own. Exempt it by a rule, or quantize the function that applies the model: "
            "`qjax.quantize(model.apply, recipe, weights=0)`."
        )
    if call.module.is_initializing():
        out = run()  # Makes the layer's own parameters.
        if not holds:
            return out
    return call_rewritten(call.module, method, op, choice, args, kwargs)
