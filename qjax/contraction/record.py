"""Notes, while a program is traced, which contractions it quantizes and where.

A report listens; otherwise only a name is left in the traced program. Listening is local
to a thread and to a `with` block, and it never changes what is computed.
"""

import contextlib
import contextvars
import dataclasses
import itertools
from collections.abc import Hashable, Iterator
from typing import Any

import jax

from qjax._typing import Array, DTypeLike, Shape
from qjax.contraction.axes import Axes
from qjax.contraction.legs import Operation
from qjax.contraction.policy import Policy

# Both stand in the name stack of the traced program, where a report finds them again.
SCOPE = "qjax"
# What is done to operands before a contraction; products in there are none of the model's.
BEFORE = "qjax-operands"
MAPPED = "qjax-mapped"  # The call in there that takes both operands and gives them transformed.
_numbers = itertools.count()


@dataclasses.dataclass(frozen=True)
class Contraction:
    """One quantized contraction, as it was traced.

    Attributes:
      number: Identifies it in the traced program.
      op: Name of the operation, as JAX spells it.
      path: Where it stands in the model; empty outside of any model.
      rule: The rule that gave it its policy; empty where the policy was given by hand.
      shapes: Shapes of both operands.
      dtypes: Dtypes of both operands.
      labels: Roles of their axes.
      policy: What its six operands are rounded to.
    """

    number: int
    op: str
    path: str
    rule: str
    shapes: tuple[Shape, Shape]
    dtypes: tuple[DTypeLike, DTypeLike]
    labels: Axes
    policy: Policy


@dataclasses.dataclass
class Heard:
    """What a listener heard.

    Attributes:
      contractions: The quantized contractions, as they were traced.
      regions: Which recipe a part of the model computes by: its path, and the recipe.
      number: Tells it from other listeners.
    """

    contractions: list[Contraction] = dataclasses.field(default_factory=list)
    regions: list[tuple[str, Any]] = dataclasses.field(default_factory=list)
    number: int = dataclasses.field(default_factory=lambda: next(_numbers))


_listener: contextvars.ContextVar[Heard | None] = contextvars.ContextVar(
    "qjax_listener", default=None
)
_site: contextvars.ContextVar[tuple[str, str, str]] = contextvars.ContextVar(
    "qjax_site", default=("", "", "")
)
# `jax.jit` has other traces for other values. Made at import: JAX wants no other thread then.
_traced_for = jax.make_user_context()


@contextlib.contextmanager
def listen() -> Iterator[Heard]:
    """Collects the contractions that are traced inside the block."""
    heard = Heard()
    token = _listener.set(heard)
    try:
        with traced_for():
            yield heard
    finally:
        _listener.reset(token)


@contextlib.contextmanager
def traced_for(*asked: Hashable) -> Iterator[None]:
    """Keeps what is traced inside the block apart from what else `jax.jit` has traced.

    A function that is compiled inside a model, as by `nn.jit` around a method of a class, would
    compute as in the model that met it first. What computes alike shall ask for the same.
    """
    heard = _listener.get()
    listener = () if heard is None else (heard.number,)
    with _traced_for((*listener, *asked) or None):
        yield


@contextlib.contextmanager
def site(path: str, rule: str, op: str = "") -> Iterator[None]:
    """Says where in a model the contractions inside the block stand.

    `op` is what the rule knows the operation by, where a traced program says otherwise.
    """
    token = _site.set((path, rule, op))
    try:
        yield
    finally:
        _site.reset(token)


def here() -> str:
    """The path of the contraction that is being traced; empty outside of any model."""
    return _site.get()[0]


def enter_region(path: str, recipe: Any) -> None:
    """Says that the part of the model at `path` computes by `recipe`."""
    heard = _listener.get()
    if heard is not None and (path, recipe) not in heard.regions:
        heard.regions.append((path, recipe))


@contextlib.contextmanager
def record(name: str, op: Operation, lhs: Array, rhs: Array, policy: Policy) -> Iterator[None]:
    """Marks the contraction that is traced inside the block."""
    heard = _listener.get()
    path, rule, alias = _site.get()
    name = alias or name
    if heard is None:
        with jax.named_scope(f"{SCOPE}[{name}]"):
            yield
        return
    number = next(_numbers)
    labels, shapes, dtypes = (
        op.labels(lhs.ndim, rhs.ndim),
        (lhs.shape, rhs.shape),
        (lhs.dtype, rhs.dtype),
    )
    heard.contractions.append(Contraction(number, name, path, rule, shapes, dtypes, labels, policy))
    with jax.named_scope(f"{SCOPE}[{name}:{number}]"):
        yield
