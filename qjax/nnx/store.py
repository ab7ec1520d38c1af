"""What the contractions of an nnx layer learn and remember, as variables of the layer.

Learned values are `nnx.Param`, so that optimizers find them. States are `State`; those of the
backward pass, which come back as their own gradients, are `Cotangent`:

    wrt = nnx.DiffState(0, nnx.Any(nnx.Param, qjax.nnx.Cotangent))
    grads = nnx.grad(loss, argnums=wrt)(model)
    optimizer.update(model, qjax.nnx.take(model, grads))

`take` puts the states in their places and gives the gradients of the parameters.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from qjax._typing import PyTree
from qjax.contraction.memory import NAMES
from qjax.contraction.outside import trained
from qjax.contraction.policy import Policy
from qjax.contraction.variables import DIAGNOSTICS, PENALTIES, QUANT
from qjax.recipes.ledger import MOVING, PARAMS, Ledger


class State(nnx.Variable):
    """What a quantizer remembers."""


class Cotangent(nnx.Variable):
    """What a quantizer of the backward pass remembers, or facts about its casts."""


class Penalty(nnx.Variable):
    """What an operand adds to the loss."""


class Facts(nnx.Variable):
    """Sums of facts about the casts of an operand."""


_KINDS = {PARAMS: nnx.Param, QUANT: State, PENALTIES: Penalty, DIAGNOSTICS: Facts}


class Store(nnx.Module):
    """The variables of the contractions of one layer, one attribute for each collection.

    Attributes:
      building: Whether the values are being made, by the first call.
      made: Whether a call has made them; some operands, such as signs, have none.
      diagnose: Whether facts about casts are collected.

    With `empty` there is nothing to make.
    """

    def __init__(self, diagnose: bool = False, empty: bool = False):
        self.building, self.made, self.diagnose = not empty, empty, diagnose
        for collection in _KINDS:
            setattr(self, collection, nnx.Dict())

    def ledger(self, path: str) -> Ledger:
        """The values, for one call of the layer at `path`.

        Raises:
          ValueError: If they were never made.
        """
        if not self.made:
            if self.building:
                return Ledger(None, diagnose=self.diagnose)
            raise ValueError(
                f"The layer at {path!r} was not called on the example that its values were made "
                "from. Give `qjax.quantize` an example that reaches it, or exempt it by a rule."
            )
        held = {collection: _plain(getattr(self, collection)) for collection in _KINDS}
        return Ledger(held, diagnose=self.diagnose)

    def take(self, ledger: Ledger) -> None:
        """Keeps what a call has made, or moved on."""
        if ledger.building:
            self.made = True
            for collection, kind in _KINDS.items():
                made = ledger.taken.get(collection, {})
                setattr(self, collection, _wrapped(kind, made))
        elif not self.building:
            for collection in MOVING:
                _assign(getattr(self, collection), ledger.taken.get(collection, {}))


def holds_values(policy: Policy) -> bool:
    """Whether an operand has values that are found from what it sees; signs, say, have none."""
    return any(map(_holds_values, policy.quantizers().values()))


def _holds_values(slot: Any) -> bool:
    operand = trained(slot)
    if operand is None or operand.penalized:
        return operand is not None
    like, place = jax.ShapeDtypeStruct((64, 64), jnp.float32), {"contract": (0,), "batch": ()}
    made = [
        jax.eval_shape(lambda x, f=f: f(x, **place), like) for f in (operand.params, operand.state)
    ]
    return bool(jax.tree.leaves(made))


def _wrapped(kind: type[nnx.Variable], values: Mapping[str, Any], backward: bool = False) -> Any:
    out = {}
    for name, value in values.items():
        own = backward or name in NAMES
        if isinstance(value, Mapping):
            out[name] = _wrapped(kind, value, own)
        else:
            # A copy: optimizers give buffers away, and two values may share one.
            out[name] = (Cotangent if own else kind)(jnp.array(value))
    return nnx.Dict(out)


def _plain(values: Any) -> dict[str, Any]:
    return {
        name: value[...] if isinstance(value, nnx.Variable) else _plain(value)
        for name, value in values.items()
    }


def _assign(variables: Any, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, Mapping):
            _assign(variables[name], value)
        else:
            variables[name][...] = value


def stores(module: nnx.Module) -> list[Store]:
    """The stores of a module."""
    return [one for _, one in nnx.iter_modules(module) if isinstance(one, Store)]


def penalties(module: nnx.Module) -> jax.Array:
    """The sum of what the operands of a module's last call add to the loss, float32 scalar."""
    state = nnx.state(module, Penalty)
    return sum((jnp.sum(leaf) for leaf in jax.tree.leaves(state)), jnp.float32(0))


def take(module: nnx.Module, grads: PyTree) -> PyTree:
    """Puts states of the backward pass in their places.

    Args:
      module: The module that was differentiated; its states are moved on.
      grads: Its gradients with respect to `nnx.Any(nnx.Param, Cotangent)`.

    Returns:
      The gradients of the parameters alone.
    """
    params, states = nnx.split_state(grads, nnx.Param, ...)
    before = nnx.state(module, Cotangent)
    # All zeros: the operand was not met, and goes on remembering.
    new = jax.tree.map(lambda a, b: jnp.where(jnp.any(b > 0), b, a), before, states)
    nnx.update(module, new)
    return params
