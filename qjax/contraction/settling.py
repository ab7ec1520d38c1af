"""One next state for all examples of a batch that a function is mapped over.

Under `jax.vmap` every example has a next state of its own, while the state before is shared.
The shared state becomes the largest of them, as it would in one call on the whole batch. States
that are themselves mapped, as those of many models at once, stay apart. So it is with the devices
of a `jax.shard_map` whose parts are their own while the state is one for all.
"""

import jax
import jax.numpy as jnp

from qjax._typing import Array, PyTree


def settle(following: PyTree, before: PyTree) -> PyTree:
    """The next state: one for all where a map over a batch shares the state before."""
    # Statistics have no derivative, and the rule below knows none.
    following, before = jax.lax.stop_gradient((following, before))
    return jax.tree.map(_settled, jax.tree.map(_over_devices, following, before), before)


def _over_devices(following: Array, before: Array) -> Array:
    axes = tuple(sorted(varying(following) - varying(before)))
    return jax.lax.pmax(following, axes) if axes else following


def varying(x: Array) -> frozenset[str]:
    """Axes of a mesh along which devices are known to hold different values of `x`.

    Known are those of a `jax.shard_map` with `check_vma`, inside of it.
    """
    known = jax.typeof(x)
    kind = getattr(known, "manual_axis_type", None)  # Called `vma` in other versions of JAX.
    return known.vma if kind is None else kind.varying


@jax.custom_batching.custom_vmap
def _settled(following: Array, before: Array) -> Array:
    return following


@_settled.def_vmap
def _(size: int, mapped: list[bool], following: Array, before: Array) -> tuple[Array, bool]:
    if mapped[1] or not mapped[0]:
        return following, mapped[0]
    return _settled(jnp.max(following, axis=0), before), False
