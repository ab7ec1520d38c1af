"""States of the operands of the backward pass, which come back as cotangents.

A quantizer of `dlhs` or `drhs` whose calibration remembers reads its state like any other
argument of the contraction, and the next state is returned as the argument's cotangent. The
contraction hands the state on as a result too: a layer that is called again, or the next turn
of a loop, takes it from there, and its cotangent, which holds what the later calls have seen,
is joined by the elementwise maximum. Gradients would be summed; a state must not be.

Facts about casts go the same way, but these are sums.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from qjax import gradients
from qjax._typing import Array, PyTree, Shape
from qjax.contraction import facts
from qjax.contraction.axes import Axes, Leg
from qjax.contraction.execution import role_key
from qjax.contraction.legs import Call, transformed
from qjax.contraction.outside import refuse_mixed
from qjax.contraction.plans import plan
from qjax.contraction.policy import Gemm, Implementation, Policy
from qjax.contraction.settling import settle
from qjax.contraction.variables import Variables
from qjax.quantizer import Quantizer

BACKWARD: tuple[Leg, ...] = ("dlhs", "drhs")
SIDES = ("lhs", "rhs")
# What a state or the facts of the backward pass are called, under whatever prefix.
NAMES = tuple(f"{leg}_{side}" for leg in BACKWARD for side in SIDES)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Memory:
    """What one contraction is given for its backward pass.

    Attributes:
      states: States of calibrations by name.
      facts: Sums of facts by name, where these are asked for.
    """

    states: dict[str, PyTree] = dataclasses.field(default_factory=dict)
    facts: dict[str, Array] = dataclasses.field(default_factory=dict)


def gather(
    op: str, policy: Policy, labels: Axes, shapes: Sequence[Shape], variables: Variables
) -> Memory:
    """What a contraction needs for its backward pass, from where its values live.

    Args:
      op: Name of the operation, for messages.
      policy: How it is computed.
      labels: Its axes.
      shapes: Shapes of `lhs`, `rhs` and the result.
      variables: Where its values live.

    Raises:
      ValueError: If a leg transforms what a calibration that remembers has rounded.
    """
    memory = Memory()
    lhs, rhs, out = shapes
    of_leg = {"dlhs": (out, rhs), "drhs": (lhs, out)}
    for leg in BACKWARD:
        gemm: Gemm = getattr(policy, leg)
        for side, shape, axes in zip(SIDES, of_leg[leg], labels.leg(leg), strict=True):
            quantizer, name = getattr(gemm, side), f"{leg}_{side}"
            if isinstance(quantizer, Quantizer) and quantizer.calibration.stateful:
                refuse_mixed(op, leg, gemm)
                place = {"contract": axes.contract, "batch": axes.batch}
                make = lambda q=quantizer, s=shape, p=place: q.init(s, **p)  # noqa: E731
                memory.states[name] = variables.remembered(name, make)
            if isinstance(quantizer, Quantizer) and variables.diagnose:
                probe = variables.probe(name, facts.none)
                if probe is not None:
                    memory.facts[name] = probe
    return memory


def recall(
    call: Call,
    leg: Leg,
    gemm: Gemm,
    implementation: Implementation,
    operands: tuple[Array, Array],
    memory: Memory,
) -> tuple[Call, Gemm, tuple[Array, Array], Memory]:
    """Quantizes those operands of a leg that remember, and collects facts about all.

    Returns:
      The call and the leg that are left to compute, its operands, and what the leg has seen.
    """
    seen, out = Memory(), list(operands)
    way = plan(implementation, gemm, call.labels, leg, call.shapes, call.wide)
    for n, (side, x) in enumerate(zip(SIDES, operands, strict=True)):
        quantizer, name, axes = getattr(gemm, side), f"{leg}_{side}", call.labels.leg(leg)[n]
        if name not in memory.states and name not in memory.facts:
            continue
        key = role_key(call.key, leg, n, quantizer)
        place: Any = {"contract": axes.contract, "batch": axes.batch, "key": key}
        state = memory.states.get(name, ())
        if name in memory.facts:
            plain = gemm.transform is None
            seen_by = x if plain else transformed(call, leg, gemm, operands)[n]
            seen.facts[name] = facts.of_quantizer(
                quantizer, seen_by, axes, key, way=way, state=state
            )
        if name in memory.states:
            values, following = quantizer.step(x, state, **place, dtype=call.wide)
            out[n] = gradients.through(x, values)  # For derivatives of this one: see `straight`.
            seen.states[name] = settle(following, state)
            gemm = dataclasses.replace(gemm, **{side: None})
            call = dataclasses.replace(call, decoded=True)
    return call, gemm, (out[0], out[1]), seen


def join(seen: Sequence[Memory], later: Memory) -> Memory:
    """The cotangent of a memory: what this call has seen, and what later calls have."""
    states = {name: state for one in seen for name, state in one.states.items()}
    sums = {name: values for one in seen for name, values in one.facts.items()}
    return Memory(
        {name: jax.tree.map(jnp.maximum, states[name], later.states[name]) for name in states},
        {name: sums[name] + later.facts[name] for name in sums},
    )
