"""While a quantized linen module runs: whose recipe holds, and what it gives each layer.

A module is entered for the length of one call of a method. Until then, and after it, nothing of
it holds, for this thread or any other.
"""

import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn

from qjax.contraction.outside import needs_variables
from qjax.contraction.record import enter_region, traced_for
from qjax.linen.bare import call_rewritten, is_inside, op_of, refuse_packed
from qjax.linen.calls import Call, Calls, Path
from qjax.linen.noise import noise_of
from qjax.linen.seams import Choice, seam_of
from qjax.linen.variables import LayerVariables
from qjax.recipes import Recipe
from qjax.recipes.matching import Matching


@dataclasses.dataclass(frozen=True, eq=False)
class Alike:
    """What classes have in common that were derived from one class by equal recipes.

    Attributes:
      used: Places of the rules that matched something. What was traced before, as a method under
        `nn.jit`, is not asked again.
    """

    used: set[int] = dataclasses.field(default_factory=set)


@dataclasses.dataclass(frozen=True, eq=False)
class Quantization:
    """What was asked of a module: one object for it and for all that is taken out of it.

    Attributes:
      recipe: What it computes in.
      diagnose: Whether facts about casts are collected.
      alike: One object for all that asks for the same of the same class.
      parts: Classes of what was taken out of it, by the class there was and the path in it.
    """

    recipe: Recipe
    diagnose: bool
    alike: Alike
    parts: dict[tuple[type, Path], type] = dataclasses.field(default_factory=dict)


_entered: contextvars.ContextVar[tuple[tuple[Quantization, nn.Module | None], ...]]
_entered = contextvars.ContextVar("qjax_entered", default=())


def is_entered(asked: Quantization) -> bool:
    """Whether a module that `asked` quantizes is running."""
    return any(held is asked for held, _ in _entered.get())


@contextlib.contextmanager
def entering(root: nn.Module, method: str, asked: Quantization, above: Path) -> Iterator[None]:
    """Makes the layers below `root` compute as `asked`, inside the block.

    Args:
      root: A module; nothing happens where it is not bound: it is only being built.
      method: Name of the method that is called.
      asked: What it computes by.
      above: The path of `root` in the module that was quantized; empty for that one itself.
    """
    entered = _entered.get()
    # The rules of a part are those of the whole, which holds already where that is running.
    holds = is_entered(asked) if above else entered and entered[-1][1] is root
    if root.scope is None or holds or is_inside():
        yield
        return
    matching = Matching(asked.recipe, asked.alike.used)
    enter_region("/".join(root.path), asked.recipe)
    # A part may be quantized in its own right, and then enters itself once more.
    token = _entered.set((*entered, (asked, None if above else root)))
    try:
        with (
            traced_for(*(held.alike for held, _ in _entered.get())),
            nn.intercept_methods(_interceptor(root, matching, asked.diagnose, above)),
            _shared_loops_named(asked.recipe),
        ):
            yield
    finally:
        _entered.reset(token)
    if method == "__call__" and not above:
        matching.tell(stacklevel=4)


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


def _interceptor(root: nn.Module, matching: Matching, diagnose: bool, above: Path):
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
                rule = matching.rule("/".join((*above, *full[depth:])), op)
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
