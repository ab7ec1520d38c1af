"""What the contractions of a traced program learn and remember, by their places in it.

A program holds programs: whatever stands in a loop, a branch or a call has its values in the
ledger of that construct, which is handed through it like an argument and comes back like a
result. Names follow from the names around a contraction, and from its place among those of the
same names.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from qjax._typing import Array, PyTree
from qjax.contraction.variables import DIAGNOSTICS, PENALTIES, QUANT

PARAMS = "params"
MOVING = (QUANT, PENALTIES, DIAGNOSTICS)


class Ledger:
    """The values of one contraction, or of all in one program, by collection and name.

    Attributes:
      given: What there is, as nested dictionaries by collection; None while it is being built.
      taken: What there will be: everything while it is built, else what moves.
      diagnose: Whether facts about casts are collected.
      absent: What is said where a value is needed that was not given.
    """

    def __init__(
        self, given: Mapping[str, Any] | None, *, diagnose: bool = False, absent: str = ""
    ):
        self.given = None if given is None else dict(given)
        self.diagnose = diagnose
        self.absent = absent
        self.taken: dict[str, Any] = {}
        if given is not None:
            self.taken = {name: dict(given[name]) for name in MOVING if name in given}

    @property
    def building(self) -> bool:
        """Whether the values are being made."""
        return self.given is None

    @property
    def empty(self) -> bool:
        """Whether nothing stands here, and nothing will."""
        return self.given is not None and not jax.tree.leaves(self.given)

    def opened(self, given: PyTree) -> "Ledger":
        """A ledger like this one, of other values at the same names."""
        given = None if self.building else given
        return type(self)(given, diagnose=self.diagnose, absent=self.absent)

    def child(self, name: str) -> "Ledger":
        """The ledger of a contraction or construct."""
        given = None
        if self.given is not None:
            given = {c: v[name] for c, v in self.given.items() if name in v}
        return Ledger(given, diagnose=self.diagnose, absent=self.absent)

    def join(self, name: str, taken: Mapping[str, Any]) -> None:
        """Takes in what a child has taken."""
        for collection, values in taken.items():
            if values:
                self.taken.setdefault(collection, {})[name] = values

    # The interface of `contraction.variables.Variables`.

    def learned(self, name: str, make: Callable[[], PyTree]) -> PyTree:
        """The learned values of an operand."""
        return self._held(PARAMS, name, make)

    def remembered(self, name: str, make: Callable[[], PyTree]) -> PyTree:
        """The state of an operand."""
        return self._held(QUANT, name, make)

    def remember(self, name: str, state: PyTree) -> None:
        """Moves a state on."""
        if not self.building:
            self.taken[QUANT][name] = state

    def penalize(self, name: str, penalty: Array) -> None:
        """Takes a penalty in the place of that of an earlier call."""
        self.taken.setdefault(PENALTIES, {})[name] = penalty.astype(jnp.float32)

    def observe(self, name: str, facts: Array) -> None:
        """Adds facts to those of earlier calls; there are none while it is built."""
        before = self._held(DIAGNOSTICS, name, lambda: jnp.zeros_like(facts))
        if not self.building:
            self.taken[DIAGNOSTICS][name] = before + facts

    def probe(self, name: str, make: Callable[[], Array]) -> Array | None:
        """The zeros whose cotangent will be facts of the backward pass."""
        return self._held(DIAGNOSTICS, name, make)

    def _held(self, collection: str, name: str, make: Callable[[], PyTree]) -> PyTree:
        if self.given is None:
            value = make()
            self.taken.setdefault(collection, {})[name] = value
            return value
        held = self.given.get(collection, {})
        if name not in held:
            raise ValueError(
                self.absent
                or f"A contraction needs {name!r} of the collection {collection!r}, which was not "
                "given. Make the values anew with `init` on arguments of these shapes."
            )
        return held[name]


class OnlyOne(Ledger):
    """The values of the only contraction of a program, which bear no name of its place."""

    def child(self, name: str) -> Ledger:
        """The ledger of that contraction, or of the construct that it stands in."""
        return self.opened(self.given)

    def join(self, name: str, taken: Mapping[str, Any]) -> None:
        """Takes in what it has taken."""
        for collection, values in taken.items():
            self.taken.setdefault(collection, {}).update(values)
