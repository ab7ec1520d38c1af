"""The values of a contraction among the variables of a bound linen layer.

What it learns is the entry `quant` among the layer's parameters; what it remembers stands
under the layer's path in the collection `quant`, which has to be mutable to move on. `init`
makes both.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from qjax._typing import Array, PyTree
from qjax.contraction.variables import DIAGNOSTICS, PENALTIES, QUANT
from qjax.recipes.ledger import MOVING, Ledger


@dataclasses.dataclass(frozen=True)
class LayerVariables:
    """The values of one contraction of a bound layer.

    Attributes:
      layer: The layer.
      part: Which of the layer's contractions, where it has several.
      diagnose: Whether facts about casts are collected.
    """

    layer: nn.Module
    part: str = ""
    diagnose: bool = False

    def learned(self, name: str, make: Callable[[], PyTree]) -> PyTree:
        """The learned values `name`, from the parameters."""
        held: Mapping[str, Any] = self._scope.get_variable("params", QUANT, {})
        name = self._named(name)
        if name in held:
            return held[name]
        if not self._building("params"):
            raise ValueError(self._missing("params", f"{QUANT}/{name}"))
        value = make()
        self._scope.put_variable("params", QUANT, {**held, name: value})
        return value

    def remembered(self, name: str, make: Callable[[], PyTree]) -> PyTree:
        """The state `name`, from the collection `quant`."""
        name = self._named(name)
        if self._scope.has_variable(QUANT, name):
            state = self._scope.get_variable(QUANT, name)
            # What does not move on is read by several calls; their cotangents would be summed.
            moves = self._scope.is_mutable_collection(QUANT)
            return state if moves else jax.lax.stop_gradient(state)
        if not self._building(QUANT):
            raise ValueError(self._missing(QUANT, name))
        value = make()
        self._scope.put_variable(QUANT, name, value)
        return value

    def remember(self, name: str, state: PyTree) -> None:
        """Moves the state on, unless the collection is not mutable or only being built."""
        if self._scope.is_mutable_collection(QUANT) and not self.layer.is_initializing():
            self._scope.put_variable(QUANT, self._named(name), state)

    def penalize(self, name: str, penalty: Array) -> None:
        """Writes a penalty, in the place of that of an earlier step."""
        if self._scope.is_mutable_collection(PENALTIES):
            self._scope.put_variable(PENALTIES, self._named(name), penalty)

    def observe(self, name: str, facts: Array) -> None:
        """Adds facts about a cast to those of this step; `init` starts with none."""
        before = self.probe(name, lambda: jnp.zeros_like(facts))
        if before is not None and not self.layer.is_initializing():
            self._scope.put_variable(DIAGNOSTICS, self._named(name), before + facts)

    def probe(self, name: str, make: Callable[[], Array]) -> Array | None:
        """Facts so far; None where they are not collected: the collection has to be mutable."""
        name = self._named(name)
        if not self._scope.is_mutable_collection(DIAGNOSTICS):
            if self.layer.is_initializing():
                raise ValueError(self._missing(DIAGNOSTICS, name))
            return None
        if not self._scope.has_variable(DIAGNOSTICS, name):
            if not self.layer.is_initializing():
                raise ValueError(self._missing(DIAGNOSTICS, name))
            self._scope.put_variable(DIAGNOSTICS, name, make())
        return self._scope.get_variable(DIAGNOSTICS, name)

    def ledger(self, kind: type[Ledger] = Ledger) -> Ledger:
        """The values of a layer that is traced and rewritten; to be made while it is built."""
        if self.layer.is_initializing():
            return kind(None, diagnose=self.diagnose)
        scope = self._scope
        held = {"params": scope.get_variable("params", QUANT, {})}
        for name in MOVING:
            held[name] = dict(self.layer.variables.get(name, {}))
        if self.diagnose and not scope.is_mutable_collection(DIAGNOSTICS):
            held.pop(DIAGNOSTICS)
        if not scope.is_mutable_collection(QUANT):
            held[QUANT] = jax.lax.stop_gradient(held[QUANT])
        return kind(held, diagnose=self.diagnose and DIAGNOSTICS in held)

    def take(self, ledger: Ledger) -> None:
        """Keeps what a rewritten layer has made, or moved on."""
        scope = self._scope
        if ledger.building and "params" in ledger.taken:
            if not scope.is_mutable_collection("params"):
                raise ValueError(self._missing("params", QUANT))
            scope.put_variable("params", QUANT, ledger.taken["params"])
        for collection in MOVING:
            for name, value in ledger.taken.get(collection, {}).items():
                if scope.is_mutable_collection(collection):
                    scope.put_variable(collection, name, value)
                elif ledger.building:
                    raise ValueError(self._missing(collection, name))

    @property
    def _scope(self) -> Any:
        scope = self.layer.scope
        assert scope is not None, "the interceptor only sees bound layers"
        return scope

    def _named(self, name: str) -> str:
        return f"{self.part}_{name}" if self.part else name

    def _building(self, collection: str) -> bool:
        # Parameters that may change are parameters that may be made: `linen.refound`.
        made = self.layer.is_initializing() or self._scope.is_mutable_collection("params")
        return made and self._scope.is_mutable_collection(collection)

    def _missing(self, collection: str, name: str) -> str:
        path = "/".join(self.layer.path)
        remedy = (
            f"A lifted transformation around it has to lift the collection: for `nn.scan`, "
            f"`variable_axes={{'params': 0, {collection!r}: 0}}`; for `nn.RNN`, "
            f"`variable_axes={{{collection!r}: 0}}`."
            if self.layer.is_initializing()
            else "Make them with `init` of the quantized module; values of the float model that "
            "`init` does not change can be put in the places of the new ones."
        )
        return (
            f"The layer {path!r} computes by a recipe that needs {name!r} in the collection "
            f"{collection!r}, which is not there. {remedy}"
        )
