"""The product that `jax.numpy.einsum` makes of two operands.

It may take the operands in the other order, and leaves the axes of the product in an order of
its own before it transposes them. JAX itself is asked, by a trace: noise that is drawn in the
shape of a product is then the same, whether the einsum or its traced program is quantized.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

Numbers = tuple[tuple[Any, Any], tuple[Any, Any]]


class Product(NamedTuple):
    """A product of two operands.

    Attributes:
      exchanged: Whether it takes the second operand first.
      numbers: Its dimension numbers.
      out: Letters of its axes.
    """

    exchanged: bool
    numbers: Numbers
    out: str


@functools.lru_cache(maxsize=1024)
def product_of(subscripts: str) -> Product | None:
    """The product that an einsum of two operands makes; None where it makes no single one.

    Args:
      subscripts: Written out: one letter per axis, the result explicit.
    """
    terms = subscripts.split("->")[0].split(",")
    if len(terms) != 2 or any(len(set(term)) != len(term) for term in terms):
        return None
    shapes = [jax.ShapeDtypeStruct((2,) * len(term), jnp.float32) for term in terms]
    program = jax.make_jaxpr(lambda *xs: jnp.einsum(subscripts, *xs))(*shapes).jaxpr
    if not program.eqns or any(e.primitive.name == "dot_general" for e in program.eqns[1:]):
        return None
    eqn = program.eqns[0]
    names = [v for v in eqn.invars if not isinstance(v, Literal)]
    if eqn.primitive.name != "dot_general" or set(names) != {*program.invars}:
        return None
    exchanged = names[0] is program.invars[1]
    numbers = plain_numbers(eqn.params["dimension_numbers"])
    lhs, rhs = terms[::-1] if exchanged else terms
    (gone, other), (batch, shared) = numbers
    out = [lhs[i] for i in batch]
    out += [x for i, x in enumerate(lhs) if i not in gone and i not in batch]
    out += [x for i, x in enumerate(rhs) if i not in other and i not in shared]
    return Product(exchanged, numbers, "".join(out))


def plain_numbers(numbers: Any) -> Numbers:
    """Dimension numbers as tuples, to be compared."""
    (a, b), (c, d) = numbers
    return (tuple(a), tuple(b)), (tuple(c), tuple(d))
