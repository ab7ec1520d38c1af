"""Layers of flax.linen that contract by themselves and have no seam for somebody else.

Such a layer is run as a pure function of its own variables, whose traced program is
rewritten. These layers only read their parameters; none of them writes a variable or draws
a random number when it is applied.
"""

import contextvars
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from qjax.linen.seams import Choice
from qjax.recipes.rewrite import Decision, rewrite
from qjax.recipes.roles import Role

# By layer and method: what its contraction is called in rules.
_BARE: dict[tuple[type[nn.Module], str], str] = {
    (nn.Einsum, "__call__"): "einsum",
    (nn.ConvTranspose, "__call__"): "conv_general_dilated",
    (nn.ConvLocal, "__call__"): "conv_general_dilated",
    (nn.OptimizedLSTMCell, "__call__"): "dot_general",
    (nn.Embed, "attend"): "dot_general",
}
_inside: contextvars.ContextVar[bool] = contextvars.ContextVar("qjax_inside_bare", default=False)


def is_inside() -> bool:
    """Whether a layer is being traced as a pure function, to be rewritten afterwards."""
    return _inside.get()


def op_of(module: nn.Module, method: str) -> str | None:
    """What rules call the contraction of a layer without a seam; None for other modules."""
    if is_inside():
        return None
    for (kind, name), op in _BARE.items():
        if name == method and isinstance(module, kind):
            return op
    return None


def call_rewritten(
    module: nn.Module, method: str, op: str, choice: Choice, args: tuple, kwargs: dict[str, Any]
) -> Any:
    """Calls a method of a bound layer with its contractions under `choice`."""
    alone = module.clone(parent=None)
    leaves, tree = jax.tree.flatten((module.variables, args, kwargs))
    moving = [isinstance(x, jax.Array | np.ndarray) for x in leaves]
    # `jnp.einsum` may exchange its operands: what comes from the variables is the weight.
    held = len(jax.tree.leaves(module.variables))
    roles = [Role.WEIGHT if n < held else Role.ACTIVATION for n, m in enumerate(moving) if m]
    decision = Decision(choice.policy, choice.path, choice.rule, op)

    def call(arrays: list[Any]) -> Any:
        given = iter(arrays)
        merged = [next(given) if moves else x for x, moves in zip(leaves, moving)]
        variables, args, kwargs = jax.tree.unflatten(tree, merged)
        return alone.apply(variables, *args, method=method, **kwargs)

    token = _inside.set(True)
    try:
        rewritten = rewrite(call, lambda op, scopes: decision)
        arrays = [x for x, moves in zip(leaves, moving) if moves]
        return rewritten(arrays, key=choice.key, roles=roles)
    finally:
        _inside.reset(token)
