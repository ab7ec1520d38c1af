"""What the evaluation of a rewritten program and its constructs tell each other.

A program holds constructs that hold programs: `rewrite` evaluates the first, `nested` the
second, and each needs the other at run time. Here is what passes between them.
"""

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, Protocol

from jax.extend.core import ClosedJaxpr, Jaxpr

from qjax._typing import PyTree
from qjax.recipes.ledger import Ledger
from qjax.recipes.noise import Draws, Noise
from qjax.recipes.roles import Role


class Wanted(NamedTuple):
    """That something is to be replaced, and what it needs.

    Attributes:
      draws: How many contractions at each path draw noise.
      variables: Path and rule of those that learn or remember.
    """

    draws: Draws = ()
    variables: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class Place:
    """Where in a program an equation stands.

    Attributes:
      scopes: The names that surround it.
      noise: Keys of the noise there; None where there is none.
      gradient: Whether it stands in the backward pass of a derivative taken inside.
      backward: Whether it belongs to the backward rule of a `jax.custom_vjp`.
      ledger: What it learns and remembers; None where nothing does.
      wanted: What is to be replaced in it.
      devices: Axes of a mesh along which each device runs it by itself.
      checked: Whether JAX knows which of these a value differs along.
    """

    scopes: tuple[str, ...] = ()
    noise: Noise | None = None
    gradient: bool = False
    backward: bool = False
    ledger: Ledger | None = None
    wanted: Wanted = Wanted()
    devices: tuple[str, ...] = ()
    checked: bool = False

    @property
    def given(self) -> PyTree:
        """Keys and values, to be handed into a construct."""
        noise = None if self.noise is None else self.noise.given(self.wanted.draws)
        return noise, None if self.ledger is None else self.ledger.given

    def inside(self, given: PyTree) -> "Place":
        """The same place as it is seen in a construct that was handed its keys and values."""
        noise, values = given
        ledger = None if self.ledger is None else self.ledger.opened(values)
        return dataclasses.replace(self, noise=noise and Noise(*noise), ledger=ledger)

    @property
    def taken(self) -> PyTree:
        """What the values have become, to be handed out of a construct."""
        return None if self.ledger is None else self.ledger.taken

    def close(self, taken: PyTree) -> None:
        """Goes on behind a construct that was handed keys and values, and has handed these out."""
        if self.noise is not None:
            self.noise.pass_over(self.wanted.draws)
        if self.ledger is not None:
            self.ledger.taken = taken


class Evaluator(Protocol):
    """Evaluates programs with the chosen contractions replaced.

    Attributes:
      compiled: Rewritten calls of `jax.jit`, by the program they call.
    """

    compiled: dict[Hashable, Callable[..., Any]]

    def run(
        self, program: ClosedJaxpr, args: Sequence[Any], roles: Sequence[Role], place: Place
    ) -> list[Any]:
        """Evaluates a program that is called at `place`; `roles` says what `args` are."""
        ...

    def wants_in(self, program: Jaxpr, scopes: tuple[str, ...]) -> Wanted | None:
        """What is to be replaced in a program; None where nothing is."""
        ...
