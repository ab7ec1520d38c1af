"""Rewriting inside `jax.shard_map`, with what its contractions learn and remember.

The devices share what is learned. A state is handed to each of them, and what they make of it is
joined by the elementwise maximum, in the forward pass and where it comes back as a gradient: a
sum over devices would be no state of any of them. Facts about casts are sums.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn

from qjax._typing import Array, PyTree
from qjax.contraction.absent import folded
from qjax.contraction.settling import varying
from qjax.contraction.variables import DIAGNOSTICS, PENALTIES
from qjax.recipes import stored
from qjax.recipes.ledger import PARAMS
from qjax.recipes.places import Evaluator, Place
from qjax.recipes.roles import Role


def shard_map(
    rewriter: Evaluator, eqn: JaxprEqn, args: list[Any], roles: list[Role], place: Place
) -> Sequence[Any]:
    """Evaluates a program that is split over devices, rewritten."""
    params, args = eqn.params, stored.arrays(args)
    manual: Any = params.get("manual_axes", params.get("newly_manual_axes"))
    names = tuple(sorted(manual))
    many = math.prod(params["mesh"].shape[name] for name in names)
    checked = params["check_vma"]
    # Where JAX does not know what differs, it is what comes in split.
    split = {name for spec in params["in_specs"] for name in _axes_of(spec)}
    apart = [name for name in names if checked or name in split]
    noise, given = place.given
    held = given or {}
    shared = {name: held[name] for name in held if name == PARAMS}
    moving = {name: held[name] for name in held if name != PARAMS}

    def body(noise: Any, shared: Any, moving: Any, *args: Any) -> Any:
        own = jax.tree.map(lambda x: x[0], moving)
        here = place.inside((noise, {**shared, **own}))
        here = dataclasses.replace(here, devices=(*place.devices, *apart), checked=checked)
        program: ClosedJaxpr | Any = params["jaxpr"]
        program = program if isinstance(program, ClosedJaxpr) else ClosedJaxpr(program, ())
        out = stored.arrays(rewriter.run(program, args, roles, here))
        return out, jax.tree.map(lambda x: x[None], here.taken or {})

    each = jax.P(names)
    out, taken = jax.shard_map(
        body,
        mesh=params["mesh"],
        in_specs=(jax.P(), jax.P(), each, *params["in_specs"]),
        out_specs=(list(params["out_specs"]), each),
        axis_names=set(names),
        check_vma=checked,
    )(noise, shared, _spread(moving, many), *args)
    place.close({name: _joined(name, taken[name], held, many) for name in taken})
    return out


def _axes_of(spec: Any) -> list[str]:
    """Names of the mesh axes along which an array is split."""
    return [name for part in spec for name in (part if isinstance(part, tuple) else (part,))]


def key_of(place: Place, path: str, operands: Sequence[Any]) -> Any:
    """The key of the noise of the next contraction at `path`.

    Devices that round parts of their own draw noise of their own, which would be correlated
    otherwise; those that compute the same thing all draw the same, so that it stays the same.
    """
    assert place.noise is not None
    key = place.noise.draw(path)
    for name in place.devices:
        if not place.checked or any(name in varying(x) for x in jax.tree.leaves(operands)):
            key = folded(key, jax.lax.axis_index(name))
    return key


def _spread(moving: dict[str, PyTree], many: int) -> dict[str, PyTree]:
    """One copy for each device."""
    spread = {}
    for name, values in moving.items():
        copy = _copied if name == DIAGNOSTICS else _copied_state
        spread[name] = jax.tree.map(lambda x, copy=copy: copy(x, many), values)
    return spread


def _copied(x: Array, many: int) -> Array:
    return jnp.broadcast_to(x, (many, *jnp.shape(x)))


_copied_state = jax.custom_vjp(_copied, nondiff_argnums=(1,))
_copied_state.defvjp(
    lambda x, many: (_copied(x, many), None),
    lambda many, _, cotangent: (cotangent.max(0),),
)


def _joined(name: str, values: PyTree, before: dict[str, PyTree], many: int) -> PyTree:
    """What the values of all devices are together."""
    if name in (PARAMS, PENALTIES):
        # First values, and penalties of what is shared: as one device would find them on average.
        return jax.tree.map(lambda x: x.mean(0), values)
    if name != DIAGNOSTICS:
        return jax.tree.map(lambda x: x.max(0), values)
    if name not in before:
        return jax.tree.map(lambda x: x.sum(0), values)
    # Each device has added to the same sums.
    return jax.tree.map(lambda x, b: x.sum(0) - (many - 1) * b, values, before[name])
