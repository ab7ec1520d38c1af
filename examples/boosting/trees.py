"""Growing one tree, best leaf first: sums are integers, only the search for splits is in floats."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from .histograms import Gradients, histogram


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """How far a tree grows.

    Attributes:
      leaves: Largest number of leaves, L.
      rows: Smallest number of rows in a leaf, estimated from second derivatives as LightGBM does.
      damping: Added to sums of second derivatives (often called lambda).
      bins: Bins per feature, S.
      levels: Levels of the gradients; None for floats.
    """

    leaves: int = 31
    rows: int = 20
    damping: float = 0.0
    bins: int = 255
    levels: int | None = None


class Tree(NamedTuple):
    """Splits in the order in which they were made: the s-th moves rows of a leaf to leaf s + 1.

    Attributes:
      leaf: [L - 1] int32, the leaf that is split; -1 where no split was worth it.
      feature: [L - 1] int32.
      threshold: [L - 1] int32: rows with a larger bin move.
      value: [L] float32, what is added to the score.
    """

    leaf: jax.Array
    feature: jax.Array
    threshold: jax.Array
    value: jax.Array


class Split(NamedTuple):
    """The best split of a leaf: its gain, feature and threshold."""

    gain: jax.Array
    feature: jax.Array
    threshold: jax.Array


def best_split(sums: jax.Array, scales: jax.Array, rows: jax.Array, shape: Shape) -> Split:
    """Searches all thresholds of all features.

    Args:
      sums: Histogram of the leaf, [F, S, 2].
      scales: [2], what sums are multiplied by.
      rows: Rows in the leaf.
      shape: Limits.
    """
    left = jnp.cumsum(sums, axis=1)
    total = left[0, -1]
    sides = jnp.stack([left, total - left]).astype(jnp.float32) * scales
    whole = total.astype(jnp.float32) * scales
    share = sides[..., 1] / jnp.maximum(whole[1], jnp.finfo(jnp.float32).tiny)
    allowed = jnp.all(jnp.round(share * rows.astype(jnp.float32)) >= shape.rows, axis=0)
    gain = jnp.sum(_worth(sides, shape.damping), axis=0) - _worth(whole, shape.damping)
    gain = jnp.where(allowed, gain, -jnp.inf)
    best = jnp.argmax(gain)
    feature, threshold = jnp.unravel_index(best, gain.shape)
    return Split(gain.ravel()[best], feature.astype(jnp.int32), threshold.astype(jnp.int32))


def _worth(sums: jax.Array, damping: float) -> jax.Array:
    h = sums[..., 1] + damping
    return jnp.where(h > 0, sums[..., 0] ** 2 / jnp.where(h > 0, h, 1), 0)


class _Growth(NamedTuple):
    node: jax.Array  # [N] leaf of each row
    sums: jax.Array  # [L, F, S, 2]
    best: Split  # of each leaf, [L]
    tree: Tree


def grow(bins: jax.Array, gradients: Gradients, shape: Shape) -> tuple[jax.Array, jax.Array, Tree]:
    """Grows a tree.

    Args:
      bins: [F, N] uint8.
      gradients: Of N rows.
      shape: Limits.

    Returns:
      The leaf of each row [N], the sums of derivatives in each leaf [L, 2], and the tree, whose
      values are zeros.
    """
    rows = bins.shape[1]
    few = jnp.full(shape.leaves - 1, -1, jnp.int32)
    tree = Tree(few, few, few, jnp.zeros(shape.leaves, jnp.float32))
    every = jnp.ones(rows, jnp.bool_)
    root = histogram(bins, gradients, every, many=shape.levels, size=shape.bins)
    sums = jnp.zeros((shape.leaves, *root.shape), root.dtype).at[0].set(root)
    nothing = jnp.zeros(shape.leaves, jnp.int32)
    best = Split(jnp.full(shape.leaves, -jnp.inf, jnp.float32), nothing, nothing)
    first = best_split(root, gradients.scales, jnp.int32(rows), shape)
    best = jax.tree.map(lambda all, one: all.at[0].set(one), best, first)
    start = _Growth(jnp.zeros(rows, jnp.int32), sums, best, tree)

    def split(s: jax.Array, growth: _Growth) -> _Growth:
        leaf = jnp.argmax(growth.best.gain).astype(jnp.int32)
        worth = growth.best.gain[leaf] > 0
        return jax.lax.cond(
            worth, lambda: _split(bins, gradients, shape, growth, s, leaf), lambda: growth
        )

    end = jax.lax.fori_loop(0, shape.leaves - 1, split, start)
    return end.node, end.sums[:, 0].sum(axis=1), end.tree


def _split(
    bins: jax.Array,
    gradients: Gradients,
    shape: Shape,
    growth: _Growth,
    s: jax.Array,
    leaf: jax.Array,
) -> _Growth:
    feature, threshold = growth.best.feature[leaf], growth.best.threshold[leaf]
    new = s + 1
    moves = (growth.node == leaf) & (bins[feature].astype(jnp.int32) > threshold)
    node = jnp.where(moves, new, growth.node)
    counts = jnp.stack([jnp.sum(node == leaf), jnp.sum(moves)]).astype(jnp.int32)
    # The larger child is the parent minus the smaller: exact, for the sums are integers.
    smaller = jnp.where(counts[1] < counts[0], new, leaf)
    less = histogram(bins, gradients, node == smaller, many=shape.levels, size=shape.bins)
    more = growth.sums[leaf] - less
    pair = jnp.where(smaller == leaf, jnp.stack([less, more]), jnp.stack([more, less]))
    found = jax.vmap(lambda h, n: best_split(h, gradients.scales, n, shape))(pair, counts)
    places = jnp.stack([leaf, new])
    record = growth.tree._replace(
        leaf=growth.tree.leaf.at[s].set(leaf),
        feature=growth.tree.feature.at[s].set(feature),
        threshold=growth.tree.threshold.at[s].set(threshold),
    )
    best = jax.tree.map(lambda all, two: all.at[places].set(two), growth.best, found)
    return _Growth(node, growth.sums.at[places].set(pair), best, record)


def leaf_of(tree: Tree, bins: jax.Array) -> jax.Array:
    """Returns the leaf of each row [N] of `bins` [F, N]: the splits, made again in order."""

    def move(s: jax.Array, node: jax.Array) -> jax.Array:
        above = bins[tree.feature[s]].astype(jnp.int32) > tree.threshold[s]
        return jnp.where((node == tree.leaf[s]) & above, s + 1, node)

    return jax.lax.fori_loop(0, tree.leaf.size, move, jnp.zeros(bins.shape[1], jnp.int32))
