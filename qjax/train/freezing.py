"""Learn, then freeze: parameters that stop changing at a step, such as learned bit widths."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from qjax._typing import Array, PyTree


class FreezeState(NamedTuple):
    """Steps taken, int32."""

    count: Array


def freeze_after(
    steps: int, pattern: str, final: Callable[[Array], Array] | None = None
) -> optax.GradientTransformation:
    """Stops the updates of some parameters after a number of steps; put it last in a chain.

    Learned bits are frozen so that the last part of training adapts to them (Nikolic et al.
    2020, "BitPruning"; QFX does so too).

    Args:
      steps: Updates that are let through.
      pattern: Regular expression that the whole path of a parameter must match, with slashes:
        "block_0/.*bits".
      final: What is done to the parameters when they freeze, elementwise: `jnp.ceil` rounds
        learned bits up. Needs the parameters in `update`, as a step of training gives them.

    Raises:
      ValueError: At `init`, if no parameter matches; at `update`, if `final` needs parameters
        and none came.
    """

    def init(params: PyTree) -> FreezeState:
        _check_matches(pattern, params)
        return FreezeState(jnp.zeros((), jnp.int32))

    def update(updates: PyTree, state: Any, params: PyTree | None = None) -> Any:
        if final is not None and params is None:
            raise ValueError(
                "`freeze_after` was asked for a `final` value, but `update` got no parameters. "
                "Call `update(updates, state, params)`."
            )
        passes, now = state.count < steps, state.count == steps

        def one(path: Any, update: Array, parameter: Array) -> Array:
            if re.fullmatch(pattern, _slashed(path)) is None:
                return update
            last = jnp.zeros_like(update)
            if final is not None:
                last = jnp.where(now, final(parameter) - parameter, last).astype(update.dtype)
            return jnp.where(passes, update, last)

        parameters = updates if params is None else params
        new = jax.tree_util.tree_map_with_path(one, updates, parameters)
        return new, FreezeState(state.count + 1)

    return optax.GradientTransformation(init, update)


def _check_matches(pattern: str, params: PyTree) -> None:
    names = [_slashed(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    if not any(re.fullmatch(pattern, name) for name in names):
        raise ValueError(
            f"`pattern` {pattern!r} matches no parameter. The paths are {', '.join(names[:8])}"
            f"{' ...' if len(names) > 8 else ''}; name some of them."
        )


def _slashed(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
