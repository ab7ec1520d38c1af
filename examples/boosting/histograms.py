"""Gradients as small integers, and their exact sums per bin in words as narrow as they may be.

Both are the ideas of Shi et al. 2022, "Quantized training of gradient boosting decision trees"
(arXiv 2207.09682), in the form of LightGBM: with B levels, gradients become integers of
[-B/2, B/2] and second derivatives of [0, B], both rounded stochastically; one word holds the sum of
the first in its high half and that of the second in its low half, and small leaves take small
words.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

import qjax
from qjax import formats
from qjax.rounding import Rounding

BLOCK = 128
"""Rows that are added to a histogram at a time."""


class Gradients(NamedTuple):
    """First and second derivatives of the loss, one of each per row.

    Attributes:
      values: [N, 2]: int8 levels, or float32 where they are not quantized.
      scales: [2] float32, the value of one level; ones where they are not quantized.
    """

    values: jax.Array
    scales: jax.Array


def levels(bits: int) -> int:
    """Levels B of gradients of `bits` bits: 2, 6, 14 and 30 for 2, 3, 4 and 5."""
    return 2**bits - 2


def quantize(
    first: jax.Array, second: jax.Array, *, bits: int, rounding: Rounding, key: jax.Array
) -> Gradients:
    """Rounds derivatives to integers, in units of the largest over half of, or all, the levels.

    Where second derivatives are all alike, as those of the squared error, each is one level.

    Args:
      first: [N] float32.
      second: [N] float32, not negative.
      bits: 2 to 7.
      rounding: Stochastic as published; nearest loses the many small gradients.
      key: Key of the noise.
    """
    many = levels(bits)
    tiny = jnp.finfo(jnp.float32).tiny
    steps = jnp.stack([jnp.max(jnp.abs(first)) / (many // 2), jnp.max(second) / many])
    alike = jnp.min(second) == jnp.max(second)
    steps = jnp.maximum(steps.at[1].set(jnp.where(alike, second[0], steps[1])), tiny)
    # A quotient may come out a hair above the largest level; noise would lift it to the next.
    g = jnp.clip(first / steps[0], -(many // 2), many // 2)
    h = jnp.clip(second / steps[1], 0, many)
    of_g, of_h = jax.random.split(key)
    g = qjax.cast(g, formats.Int(bits, narrow=True), rounding=rounding, key=of_g)
    h = qjax.cast(h, formats.Int(bits, signed=False), rounding=rounding, key=of_h)
    return Gradients(jnp.stack([g, h], axis=-1).astype(jnp.int8), steps)


def width(rows: jax.Array | int, many: int) -> jax.Array:
    """Index into `WIDTHS` of the narrowest halves that hold sums over `rows` rows of B levels."""
    most = jnp.asarray(rows, jnp.int32) * many
    return (most >= 1 << 8).astype(jnp.int32) + (most >= 1 << 16).astype(jnp.int32)


WIDTHS = (8, 16, 32)
"""Bits of each half of a word."""


def histogram(
    bins: jax.Array, gradients: Gradients, chosen: jax.Array, *, many: int | None, size: int
) -> jax.Array:
    """Sums derivatives per feature and bin over the chosen rows.

    Args:
      bins: [F, N] uint8.
      gradients: Of all N rows.
      chosen: [N] bool.
      many: Levels of the gradients; None where they are floats.
      size: Bins per feature, S.

    Returns:
      [F, S, 2], int32 (exact) or float32.
    """
    rows = jnp.sum(chosen, dtype=jnp.int32)
    # The chosen rows first; the work is then that of the leaf, not of the table.
    (order,) = jnp.nonzero(chosen, size=-(-chosen.size // BLOCK) * BLOCK, fill_value=0)
    if many is None:
        return _sum(bins, gradients.values, order, rows, size)
    values = gradients.values.astype(jnp.int32)

    def packed(half: int) -> jax.Array:
        if half == 32:
            return _sum(bins, values, order, rows, size)
        word = ((values[:, 0] << half) + values[:, 1]).astype(jnp.dtype(f"int{2 * half}"))
        sums = _sum(bins, word[:, None], order, rows, size)[..., 0].astype(jnp.int32)
        return jnp.stack([sums >> half, sums & ((1 << half) - 1)], axis=-1)

    # Widths that not even all rows need are not compiled.
    possible = [w for i, w in enumerate(WIDTHS) if i == 0 or _reaches(chosen.size, many, i)]
    return jax.lax.switch(width(rows, many), [lambda w=w: packed(w) for w in possible])


def _reaches(rows: int, many: int, index: int) -> bool:
    return rows * many >= 1 << WIDTHS[index - 1]


def _sum(
    bins: jax.Array, words: jax.Array, order: jax.Array, rows: jax.Array, size: int
) -> jax.Array:
    """Adds `words` [N, W] of the first `rows` rows in `order`, block by block, in their dtype."""
    features = jnp.arange(bins.shape[0])[:, None]

    def add(i: jax.Array, total: jax.Array) -> jax.Array:
        place = i * BLOCK + jnp.arange(BLOCK)
        row = order[place]
        word = jnp.where((place < rows)[:, None], words[row], jnp.zeros((), words.dtype))
        return total.at[features, bins[:, row]].add(word[None])

    empty = jnp.zeros((bins.shape[0], size, words.shape[1]), words.dtype)
    return jax.lax.fori_loop(0, (rows + BLOCK - 1) // BLOCK, add, empty)
