"""Drawing which terms of a contraction are computed, so that its mean is the whole product.

An operand may come in several parts that sum to it (see `splitting`); every part of every row is
drawn on its own. Here the rows that are not drawn are zero and the others are divided by their
probability: the values that hardware gets from the smaller product.
"""

import abc
import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp

from qjax._typing import Array, Key
from qjax.contraction.axes import Paired

Over = Literal["contracted", "lhs", "rhs"]
Parts = Sequence[Array]


class Sampling(abc.ABC):
    """A rule that draws terms of a product of parts."""

    @abc.abstractmethod
    def __call__(self, lhs: Parts, rhs: Parts, axes: Paired, key: Key) -> tuple[Array, Array]:
        """Both operands, each the sum of its drawn and weighted parts.

        Args:
          lhs: Parts of the first operand, of one shape.
          rhs: Parts of the second operand.
          axes: Contracted and batch axes of both.
          key: Key of the draw.
        """

    @abc.abstractmethod
    def flipped(self) -> "Sampling":
        """The rule for operands in the other order."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LeverageSampling(Sampling):
    """Draws terms with probabilities in proportion to their norms.

    A term is one index of the contracted axes (the outer product of a column and a row), or one
    row of an operand. Its score is the product of the norms of what it multiplies; it is drawn
    with probability `p`, in proportion to the score, at most 1, and weighted by `1/p`. Of every
    batch index the expected number of drawn terms is `share` times the number of indices.

    Attributes:
      over: What is drawn: indices of the "contracted" axes, or rows of "lhs" or of "rhs".
      share: Expected number of drawn terms relative to the number of indices. With an operand in
        two parts, 1 draws as many as a product of one part has.

    References:
      Xi et al. 2023, "Training Transformers with 4-bit Integers" (arXiv 2306.11987), section 4.2;
      the variance is its proposition 4.1.
    """

    over: Over = dataclasses.field(default="contracted", metadata={"static": True})
    share: float = 1.0

    def __post_init__(self):
        if self.over not in ("contracted", "lhs", "rhs"):
            raise ValueError(
                f"`LeverageSampling.over` must be 'contracted', 'lhs' or 'rhs', but "
                f"{self.over!r} came."
            )

    def flipped(self) -> "LeverageSampling":
        """The rule for operands in the other order."""
        other: dict[Over, Over] = {"contracted": "contracted", "lhs": "rhs", "rhs": "lhs"}
        return dataclasses.replace(self, over=other[self.over])

    def __call__(self, lhs: Parts, rhs: Parts, axes: Paired, key: Key) -> tuple[Array, Array]:
        """Both operands, each the sum of its drawn and weighted parts."""
        if self.over == "contracted":
            return self._terms(lhs, rhs, axes, key)
        if self.over == "lhs":
            return self._rows(lhs, axes.lhs, axes.lhs_batch, key), whole(rhs)
        return whole(lhs), self._rows(rhs, axes.rhs, axes.rhs_batch, key)

    def _terms(self, lhs: Parts, rhs: Parts, axes: Paired, key: Key) -> tuple[Array, Array]:
        if axes.lhs_groups > 1 or axes.rhs_groups > 1 or (len(lhs) > 1 and len(rhs) > 1):
            raise ValueError(
                "`LeverageSampling` draws contracted indices of one product whose operands are not "
                "both split, but the product is grouped or both are. Draw rows, or split one."
            )
        norms = [
            jnp.stack([_norms(x, contract, batch) for x in parts])
            for parts, contract, batch in (
                (lhs, axes.lhs, axes.lhs_batch),
                (rhs, axes.rhs, axes.rhs_batch),
            )
        ]
        weights = self._weights(norms[0] * norms[1], key)
        if len(rhs) > 1:
            return lhs[0], _weighted(rhs, weights, axes.rhs, axes.rhs_batch)
        return _weighted(lhs, weights, axes.lhs, axes.lhs_batch), rhs[0]

    def _rows(
        self, parts: Parts, contract: tuple[int, ...], batch: tuple[int, ...], key: Key
    ) -> Array:
        rows = tuple(i for i in range(parts[0].ndim) if i not in contract + batch)
        norms = jnp.stack([_norms(x, rows, batch) for x in parts])
        return _weighted(parts, self._weights(norms, key), rows, batch)

    def _weights(self, scores: Array, key: Key) -> Array:
        """`drawn / p` for scores `(parts, batch, n)`."""
        shape = scores.shape
        flat = jnp.moveaxis(scores, 1, 0).reshape(shape[1], -1)
        chance = jax.vmap(lambda s: probabilities(s, self.share * shape[2]))(flat)
        drawn = jax.random.uniform(key, chance.shape) < chance
        weights = jnp.where(drawn, 1 / jnp.where(chance > 0, chance, 1), 0)
        return jnp.moveaxis(weights.reshape(shape[1], shape[0], shape[2]), 0, 1)


def whole(parts: Parts) -> Array:
    """The operand that parts sum to."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def probabilities(scores: Array, expected: float | Array) -> Array:
    """Probabilities in proportion to `scores`, at most 1, that sum to `expected`.

    Those that would exceed 1 are 1, and the others share what is left in proportion, until none
    exceeds 1. Where fewer scores than `expected` are positive, all of these have probability 1.

    Args:
      scores: `(n,)` float32, not negative.
      expected: Their sum.
    """
    ordered = -jnp.sort(-scores)
    tails = jnp.cumsum(ordered[::-1])[::-1]
    left = jnp.maximum(expected - jnp.arange(scores.shape[0], dtype=jnp.float32), 0)
    factor = left / jnp.where(tails > 0, tails, 1)
    # The first place from which on no probability exceeds 1.
    place = jnp.argmax(ordered * factor <= 1)
    enough = jnp.any(ordered * factor <= 1) & (tails[place] > 0)
    chance = jnp.where(enough, jnp.minimum(scores * factor[place], 1), 1.0)
    certain = enough & (scores > ordered[place])
    return jnp.where(scores > 0, jnp.where(certain, 1.0, chance), 0.0)


def _norms(x: Array, index: tuple[int, ...], batch: tuple[int, ...]) -> Array:
    """Euclidean norms `(batch, n)` of what each index of the axes `index` selects."""
    order = [*batch, *index, *(i for i in range(x.ndim) if i not in batch + index)]
    sizes = [math.prod(x.shape[i] for i in axes) for axes in (batch, index)]
    rows = x.transpose(order).reshape(*sizes, x.size // max(1, math.prod(sizes)))
    return jnp.sqrt(jnp.sum(jnp.square(rows.astype(jnp.float32)), axis=-1))


def _weighted(
    parts: Parts, weights: Array, index: tuple[int, ...], batch: tuple[int, ...]
) -> Array:
    """The sum of parts, each times its weights `(parts, batch, n)` along `index`."""
    x = parts[0]
    order = [*batch, *index]
    rest = [i for i in range(x.ndim) if i not in order]
    total = jnp.zeros_like(x)
    for part, weight in zip(parts, weights):
        shaped = weight.reshape([*(x.shape[i] for i in order), *(1 for _ in rest)])
        aligned = shaped.transpose([[*order, *rest].index(i) for i in range(x.ndim)])
        total = total + part * aligned.astype(part.dtype)
    return total
