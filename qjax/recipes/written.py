"""In which order the operands of a traced product were written, and products the other way round.

`jax.numpy.einsum` may exchange its two operands, and a weight may stand on the left. A policy
speaks of the first and second operand as written, and of the weight as the second one; so such
a product is computed as the einsum that takes them in that order and gives the same result.
"""

import functools
import itertools
import string

from jax.extend.core import JaxprEqn

from qjax.contraction.einsums import Product, plain_numbers, product_of
from qjax.contraction.operations import parse_subscripts
from qjax.recipes.walk import is_subscripts


def is_exchanged(eqn: JaxprEqn, scopes: tuple[str, ...]) -> bool:
    """Whether a product takes the second operand first that its einsum was written with.

    False for what no einsum of two operands has written. Maps keep the order of operands.
    """
    if eqn.primitive.name != "dot_general" or not scopes or not is_subscripts(scopes[-1]):
        return False
    products = _products(scopes[-1])
    numbers = plain_numbers(eqn.params["dimension_numbers"])
    same = {product.exchanged for product in products if product.numbers == numbers}
    return (same or {product.exchanged for product in products}) == {True}


@functools.lru_cache(maxsize=1024)
def _products(subscripts: str) -> tuple[Product, ...]:
    """The products that an einsum may make, by the number of axes of its ellipsis."""
    terms = subscripts.replace(" ", "").split("->")[0].split(",")
    found = []
    for many in range(5 if "..." in subscripts else 1) if len(terms) == 2 else ():
        ndims = tuple(len(term.replace("...", "." * many)) for term in terms)
        (first, second), out = parse_subscripts(subscripts, ndims)
        found.append(product_of(f"{first},{second}->{out}"))
    return tuple(product for product in found if product is not None)


def can_exchange(eqn: JaxprEqn) -> bool:
    """Whether a product can be computed as an einsum of its operands in the other order."""
    lhs, rhs = (v.aval for v in eqn.invars[:2])
    plain = eqn.primitive.name == "dot_general" and eqn.params.get("out_sharding") is None
    return plain and lhs.dtype == rhs.dtype  # type: ignore[attr-defined]


def subscripts_exchanged(eqn: JaxprEqn) -> str:
    """Subscripts that take the right operand of a product first, and give its result."""
    ndims = [v.aval.ndim for v in eqn.invars[:2]]  # type: ignore[attr-defined]
    contracted, batch = plain_numbers(eqn.params["dimension_numbers"])
    letters = itertools.chain(string.ascii_letters)
    lhs, rhs = ([""] * ndim for ndim in ndims)
    for left, right in (*zip(*batch), *zip(*contracted)):
        lhs[left] = rhs[right] = next(letters)
    lhs, rhs = ([letter or next(letters) for letter in one] for one in (lhs, rhs))
    shared = [lhs[i] for i in batch[0]]
    gone = {lhs[i] for i in contracted[0]}
    free = [x for x in (*lhs, *rhs) if x not in shared and x not in gone]
    return f"{''.join(rhs)},{''.join(lhs)}->{''.join((*shared, *free))}"
