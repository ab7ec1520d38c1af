"""Learn, then freeze: parameters that stop changing at a step, such as learned bit widths."""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from qjax._typing import Array, PyTree


class FreezeState(NamedTuple):
    """Steps taken, int32."""

    count: Array


def freeze_after(steps: int, pattern: str) -> optax.GradientTransformation:
    """Stops the updates of some parameters after a number of steps; put it last in a chain.

    Learned bits are frozen so that the last part of training adapts to them (Nikolic et al.
    2020, "BitPruning"; QFX does so too).

    Args:
      steps: Updates that are let through.
      pattern: Regular expression that the whole path of a parameter must match, with slashes:
        "block_0/.*bits".

    Raises:
      ValueError: At `init`, if no parameter matches.
    """

    def frozen(path: Any) -> bool:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return re.fullmatch(pattern, name) is not None

    def init(params: PyTree) -> FreezeState:
        paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        if not any(map(frozen, paths)):
            names = [jax.tree_util.keystr(p, simple=True, separator="/") for p in paths]
            raise ValueError(
                f"`pattern` {pattern!r} matches no parameter. The paths are {', '.join(names[:8])}"
                f"{' ...' if len(names) > 8 else ''}; name some of them."
            )
        return FreezeState(jnp.zeros((), jnp.int32))

    def update(updates: PyTree, state: Any, params: PyTree | None = None) -> Any:
        del params
        passes = state.count < steps

        def one(path: Any, update: Array) -> Array:
            return jnp.where(passes, update, 0) if frozen(path) else update

        return jax.tree_util.tree_map_with_path(one, updates), FreezeState(state.count + 1)

    return optax.GradientTransformation(init, update)
