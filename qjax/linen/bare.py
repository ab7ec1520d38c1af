"""Layers of flax.linen that contract by themselves and have no seam for somebody else.

So are those whose weights came packed: their own code speaks of arrays. Such a layer is run
as a pure function of its own variables, whose traced program is rewritten. These layers only
read their parameters; none of them writes a variable or draws a random number when it is
applied.
"""

import contextvars
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from qjax.contraction import Policy
from qjax.contraction.outside import needs_variables
from qjax.linen.seams import Choice
from qjax.recipes.ledger import Ledger, OnlyOne
from qjax.recipes.rewrite import Decision, rewrite
from qjax.recipes.roles import Role
from qjax.recipes.stored import check_wanted, is_stored

# By layer and method: what its contraction is called in rules.
_BARE: dict[tuple[type[nn.Module], str], str] = {
    (nn.Einsum, "__call__"): "einsum",
    (nn.ConvTranspose, "__call__"): "conv_general_dilated",
    (nn.ConvLocal, "__call__"): "conv_general_dilated",
    (nn.OptimizedLSTMCell, "__call__"): "dot_general",
    (nn.Embed, "attend"): "dot_general",
}
_WITH_SEAM: dict[type[nn.Module], str] = {
    nn.Dense: "dot_general",
    nn.DenseGeneral: "dot_general",
    nn.Conv: "conv_general_dilated",
}
_PATCHES = "the patches of a local convolution are moved, not computed: its product is quantized"
_inside: contextvars.ContextVar[bool] = contextvars.ContextVar("qjax_inside_bare", default=False)


def is_inside() -> bool:
    """Whether a layer is being traced as a pure function, to be rewritten afterwards."""
    return _inside.get()


def op_of(module: nn.Module, method: str) -> str | None:
    """What rules call the contraction of a layer to be rewritten; None for other modules."""
    if is_inside():
        return None
    for (kind, name), op in _BARE.items():
        if name == method and isinstance(module, kind):
            return op
    for kind, op in _WITH_SEAM.items():
        if method == "__call__" and isinstance(module, kind) and is_packed(module):
            return op
    return None


def is_packed(module: nn.Module) -> bool:
    """Whether a layer holds packed weights."""
    own = module.variables.get("params", {}) if module.scope is not None else {}
    return any(map(is_stored, jax.tree.leaves(own, is_leaf=is_stored)))


def refuse_packed(module: nn.Module, op: str) -> None:
    """Refuses packed weights of a layer that no rule quantizes.

    Raises:
      ValueError: If it has any, naming the leaf and both types.
    """
    leaves = jax.tree.leaves_with_path(module.variables, is_leaf=is_stored)
    for path, leaf in leaves:
        where = "/".join((*module.path, *(str(getattr(k, "key", k)) for k in path[1:])))
        check_wanted(where, op, (None, leaf))


def call_rewritten(
    module: nn.Module, method: str, op: str, choice: Choice, args: tuple, kwargs: dict[str, Any]
) -> Any:
    """Calls a method of a bound layer with its contractions under `choice`."""
    alone = module.clone(parent=None)
    leaves, tree = jax.tree.flatten((module.variables, args, kwargs), is_leaf=is_stored)
    arrays_of = [isinstance(x, jax.Array | np.ndarray) or is_stored(x) for x in leaves]
    # `jnp.einsum` may exchange its operands: what comes from the variables is the weight.
    held = len(jax.tree.leaves(module.variables, is_leaf=is_stored))
    roles = [Role.WEIGHT if n < held else Role.ACTIVATION for n, m in enumerate(arrays_of) if m]
    decision = Decision(choice.policy, choice.path, choice.rule, op)
    # Taking patches is a convolution in the program, and would round every element twice.
    moving = Decision(Policy(), choice.path, _PATCHES) if isinstance(module, nn.ConvLocal) else None
    by_op = {"conv_general_dilated": moving or decision}

    def call(arrays: list[Any]) -> Any:
        given = iter(arrays)
        merged = [next(given) if moves else x for x, moves in zip(leaves, arrays_of)]
        variables, args, kwargs = jax.tree.unflatten(tree, merged)
        return alone.apply(variables, *args, method=method, **kwargs)

    token = _inside.set(True)
    try:
        rewritten = rewrite(call, lambda op, scopes: by_op.get(op, decision))
        arrays = [x for x, moves in zip(leaves, arrays_of) if moves]
        ledger = None
        if choice.variables.diagnose or needs_variables(choice.policy):
            # A layer with a seam has made its values without a program around them.
            seam = isinstance(module, tuple(_WITH_SEAM))
            ledger = choice.variables.ledger(OnlyOne if seam else Ledger)
        out = rewritten(arrays, noise=choice.noise, roles=roles, ledger=ledger)
        if ledger is not None:
            choice.variables.take(ledger)
        return out
    finally:
        _inside.reset(token)
