"""The bilinear operations, as hashable objects that `bilinear` can transpose.

Each states what it computes (by the JAX function of the same name) and the labels of its
axes. What its operands are rounded to is none of its business.
"""

import dataclasses
import functools
from collections.abc import Hashable, Sequence

import jax
import jax.numpy as jnp

from qjax._typing import Array, DTypeLike
from qjax.contraction.axes import Labelling, dot_general_labels

Pair = tuple[tuple[int, ...], tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class DotGeneral:
    """`jax.lax.dot_general` with everything but its operands fixed."""

    contract: Pair
    batch: Pair
    precision: Hashable = None
    preferred_element_type: DTypeLike | None = None
    out_sharding: Hashable = None

    def __call__(self, lhs: Array, rhs: Array) -> Array:
        return jax.lax.dot_general(
            lhs,
            rhs,
            (self.contract, self.batch),
            precision=self.precision,  # type: ignore[arg-type]
            preferred_element_type=self.preferred_element_type,
            out_sharding=self.out_sharding,  # type: ignore[arg-type]
        )

    def labels(self, lhs_ndim: int, rhs_ndim: int) -> Labelling:
        return dot_general_labels(lhs_ndim, rhs_ndim, self.contract, self.batch)

    def accumulate(self, dtype: DTypeLike) -> "DotGeneral":
        return dataclasses.replace(self, preferred_element_type=jnp.dtype(dtype))


@dataclasses.dataclass(frozen=True)
class Einsum:
    """`jax.numpy.einsum` of two operands, its subscripts written out without ellipsis."""

    subscripts: str
    precision: Hashable = None
    preferred_element_type: DTypeLike | None = None

    def __call__(self, lhs: Array, rhs: Array) -> Array:
        return jnp.einsum(
            self.subscripts,
            lhs,
            rhs,
            precision=self.precision,  # type: ignore[arg-type]
            preferred_element_type=self.preferred_element_type,
        )

    def labels(self, lhs_ndim: int, rhs_ndim: int) -> Labelling:
        del lhs_ndim, rhs_ndim  # They are the lengths of the subscripts.
        inputs, out = self.subscripts.split("->")
        lhs, rhs = inputs.split(",")
        return Labelling(tuple(lhs), tuple(rhs), tuple(out))

    def accumulate(self, dtype: DTypeLike) -> "Einsum":
        return dataclasses.replace(self, preferred_element_type=jnp.dtype(dtype))


@functools.lru_cache(maxsize=1024)
def parse_subscripts(subscripts: str, ndims: tuple[int, ...]) -> tuple[tuple[str, ...], str]:
    """Writes an einsum's subscripts out: one letter per axis, the result explicit.

    Args:
      subscripts: As `jax.numpy.einsum` takes them, with or without `->` and `...`.
      ndims: Number of axes of each operand.

    Returns:
      The letters of each operand and those of the result.

    Raises:
      ValueError: If the subscripts do not fit the operands.
    """
    text = subscripts.replace(" ", "")
    inputs, arrow, out = text.partition("->")
    terms = inputs.split(",")
    if len(terms) != len(ndims):
        raise ValueError(
            f"`einsum` was asked for {subscripts!r}, which names {len(terms)} operands, but "
            f"{len(ndims)} came. Give one term between commas for each operand."
        )
    unused = [c for c in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in text]
    width = max(
        (n - len(t.replace("...", "")) for t, n in zip(terms, ndims) if "..." in t), default=0
    )
    dots = "".join(unused[:width])
    written = tuple(_write_out(term, n, dots, subscripts) for term, n in zip(terms, ndims))
    if not arrow:
        letters = "".join(t.replace("...", "") for t in terms)
        out = "..." + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
        out = out if dots else out.removeprefix("...")
    return written, out.replace("...", dots)


def _write_out(term: str, ndim: int, dots: str, subscripts: str) -> str:
    named = term.replace("...", "")
    missing = ndim - len(named)
    if missing < 0 or (missing > 0 and "..." not in term):
        raise ValueError(
            f"`einsum` was asked for {subscripts!r}, whose term {term!r} names {len(named)} axes, "
            f"but its operand has {ndim}. Name every axis, or cover the others by '...'."
        )
    # Ellipses align on the right, as in broadcasting.
    return term.replace("...", dots[len(dots) - missing :])


def canonical_pair(pair: Sequence[Sequence[int]], ndims: tuple[int, int]) -> Pair:
    """Dimension numbers of one kind as tuples of axes counted from the front."""
    (lhs, rhs), (n, m) = pair, ndims
    return tuple(int(i) % n for i in lhs), tuple(int(i) % m for i in rhs)
