"""Where a contraction keeps what its operands learn, remember and report.

A contraction names its values by leg and side, such as "fwd.lhs"; where they live is the
business of whoever calls it: a layer's own variables, or the dictionaries of `Values`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

from qjax._typing import Array, PyTree

# Names of the collections. The learned values of a layer stand among its parameters, as one
# entry of the name QUANT; what it remembers has a collection of that name.
QUANT, PENALTIES, DIAGNOSTICS = "quant", "quant_penalties", "quant_diagnostics"


class Variables(Protocol):
    """Gives and takes the values of one contraction."""

    @property
    def diagnose(self) -> bool:
        """Whether facts about every cast are to be observed."""
        ...

    def learned(self, name: str, make: Callable[[], PyTree]) -> PyTree:
        """The learned values `name`; those that `make` gives where the model is being built."""
        ...

    def remembered(self, name: str, make: Callable[[], PyTree]) -> PyTree:
        """The state `name`; what `make` gives where the model is being built."""
        ...

    def remember(self, name: str, state: PyTree) -> None:
        """Puts the next state in the place of the one before."""
        ...

    def penalize(self, name: str, penalty: Array) -> None:
        """Takes a scalar that training adds to the loss."""
        ...

    def observe(self, name: str, facts: Array) -> None:
        """Adds sums of facts about the cast of an operand to those of this step."""
        ...

    def probe(self, name: str, make: Callable[[], Array]) -> Array | None:
        """The zeros whose cotangent will be facts of the backward pass; None for no facts."""
        ...


@dataclasses.dataclass
class Values:
    """Variables in dictionaries, for contractions that stand in no module.

    Build with `Values()`, run the contraction once to fill it, and from then on pass
    `Values(params, quant)`; afterwards `quant` holds the next states.

    Attributes:
      params: Learned values by name; None where they are to be made.
      quant: States by name; None where they are to be made.
      penalties: Penalties of the contractions that were run.
      facts: Facts about casts.
      diagnose: Whether facts are observed.
    """

    params: dict[str, Any] | None = None
    quant: dict[str, Any] | None = None
    penalties: dict[str, Array] = dataclasses.field(default_factory=dict)
    facts: dict[str, Array] = dataclasses.field(default_factory=dict)
    diagnose: bool = False

    def __post_init__(self):
        self._building = self.params is None and self.quant is None
        self.params = dict(self.params or {})
        self.quant = dict(self.quant or {})

    def learned(self, name: str, make: Callable[[], PyTree]) -> PyTree:
        assert self.params is not None
        return self._held(self.params, name, make)

    def remembered(self, name: str, make: Callable[[], PyTree]) -> PyTree:
        assert self.quant is not None
        return self._held(self.quant, name, make)

    def remember(self, name: str, state: PyTree) -> None:
        assert self.quant is not None
        if not self._building:
            self.quant[name] = state

    def penalize(self, name: str, penalty: Array) -> None:
        self.penalties[name] = penalty

    def observe(self, name: str, facts: Array) -> None:
        self.facts[name] = facts

    def probe(self, name: str, make: Callable[[], Array]) -> Array | None:
        if self._building:
            self.facts[name] = make()
        return self.facts.get(name)

    def _held(self, held: dict[str, Any], name: str, make: Callable[[], PyTree]) -> PyTree:
        if name not in held:
            if not self._building:
                raise ValueError(
                    f"The contraction needs the values {name!r}, but `Values` holds "
                    f"{sorted(held)}. Make them by running the contraction once with `Values()`."
                )
            held[name] = make()
        return held[name]


@dataclasses.dataclass(frozen=True)
class Part:
    """The values of one of several contractions that share a place.

    Attributes:
      whole: The values of all of them.
      name: What stands before the names of this one's.
    """

    whole: Variables
    name: str

    @property
    def diagnose(self) -> bool:
        return self.whole.diagnose

    def learned(self, name: str, make: Callable[[], PyTree]) -> PyTree:
        return self.whole.learned(f"{self.name}_{name}", make)

    def remembered(self, name: str, make: Callable[[], PyTree]) -> PyTree:
        return self.whole.remembered(f"{self.name}_{name}", make)

    def remember(self, name: str, state: PyTree) -> None:
        self.whole.remember(f"{self.name}_{name}", state)

    def penalize(self, name: str, penalty: Array) -> None:
        self.whole.penalize(f"{self.name}_{name}", penalty)

    def observe(self, name: str, facts: Array) -> None:
        self.whole.observe(f"{self.name}_{name}", facts)

    def probe(self, name: str, make: Callable[[], Array]) -> Array | None:
        return self.whole.probe(f"{self.name}_{name}", make)
