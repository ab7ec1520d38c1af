"""Boosting: trees fitted to the derivatives of a loss, one per class and round."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from qjax.rounding import Rounding, Stochastic

from .histograms import Gradients, levels, quantize
from .trees import Shape, Tree, grow, leaf_of

LOSSES = ("logistic", "softmax", "squared")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How a forest is grown.

    Attributes:
      loss: One of `LOSSES`.
      classes: Classes of the softmax; 1 otherwise.
      bits: Of gradients, 2 to 7; None for float32.
      rounding: Of gradients to integers.
      refit: Whether values of leaves come from the float derivatives of their rows, once the tree
        stands; else from the sums of integers.
      rounds: Trees per class.
      rate: What values of leaves are multiplied by.
      shape: Limits of each tree.
    """

    loss: str
    classes: int = 1
    bits: int | None = None
    rounding: Rounding = Stochastic()
    refit: bool = True
    rounds: int = 100
    rate: float = 0.1
    shape: Shape = Shape()

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(f"`loss` must be one of {', '.join(LOSSES)}, but is {self.loss!r}.")
        if self.bits is not None and not 2 <= self.bits <= 7:
            raise ValueError(
                f"`bits` must be 2 to 7, or None for float32, but is {self.bits}. Gradients are "
                "stored as bytes."
            )


class Forest(NamedTuple):
    """Trees with leading axes [rounds, classes], and the score [classes] before the first."""

    trees: Tree
    start: jax.Array


@functools.partial(jax.jit, static_argnames="options")
def fit(bins: jax.Array, target: jax.Array, key: jax.Array, *, options: Options) -> Forest:
    """Grows a forest.

    Args:
      bins: [F, N] uint8.
      target: [N]: float32 numbers for the squared error, else classes as int32.
      key: Key of the noise.
      options: Its `shape.bins` must exceed every bin.
    """
    start = _start(target, options)
    many = None if options.bits is None else levels(options.bits)
    shape = dataclasses.replace(options.shape, levels=many)

    def one(args: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, Tree]:
        first, second, noise = args
        plain = Gradients(jnp.stack([first, second], axis=-1), jnp.ones(2, jnp.float32))
        given = plain
        if options.bits is not None:
            given = quantize(first, second, bits=options.bits, rounding=options.rounding, key=noise)
        node, sums, tree = grow(bins, given, shape)
        totals = sums.astype(jnp.float32) * given.scales
        if options.refit:
            totals = jnp.zeros_like(totals).at[node].add(plain.values)
        value = -options.rate * _ratio(totals, shape.damping)
        return value[node], tree._replace(value=value)

    def add(scores: jax.Array, t: jax.Array) -> tuple[jax.Array, Tree]:
        first, second = derivatives(scores, target, options)
        noise = jax.random.split(jax.random.fold_in(key, t), options.classes)
        # One class after the other, not `vmap`: a tree then takes only the work that it needs.
        step, trees = jax.lax.map(one, (first, second, noise))
        return scores + step, trees

    scores = jnp.broadcast_to(start[:, None], (options.classes, bins.shape[1]))
    _, trees = jax.lax.scan(add, scores, jnp.arange(options.rounds))
    return Forest(trees, start)


def _ratio(sums: jax.Array, damping: float) -> jax.Array:
    h = sums[:, 1] + damping
    return jnp.where(h > 0, sums[:, 0] / jnp.where(h > 0, h, 1), 0)


@jax.jit
def predict(forest: Forest, bins: jax.Array) -> jax.Array:
    """Returns scores [classes, N]: log-odds, logits or numbers."""

    def add(scores: jax.Array, trees: Tree) -> tuple[jax.Array, None]:
        return scores + jax.vmap(lambda t: t.value[leaf_of(t, bins)])(trees), None

    scores = jnp.broadcast_to(forest.start[:, None], (forest.start.size, bins.shape[1]))
    return jax.lax.scan(add, scores, forest.trees)[0]


def _start(target: jax.Array, options: Options) -> jax.Array:
    if options.loss == "squared":
        return jnp.mean(target)[None]
    if options.loss == "softmax":
        counts = jnp.sum(jax.nn.one_hot(target, options.classes, dtype=jnp.float32), axis=0)
        return jnp.log(jnp.maximum(counts, 1) / target.size)
    share = jnp.mean(target.astype(jnp.float32))
    return jnp.log(share / (1 - share))[None]


def derivatives(
    scores: jax.Array, target: jax.Array, options: Options
) -> tuple[jax.Array, jax.Array]:
    """First and second derivative of the loss in each score, [classes, N] both."""
    if options.loss == "squared":
        return scores - target[None], jnp.ones_like(scores)
    if options.loss == "softmax":
        p = jax.nn.softmax(scores, axis=0)
        return p - jax.nn.one_hot(target, options.classes, axis=0, dtype=p.dtype), p * (1 - p)
    p = jax.nn.sigmoid(scores)
    return p - target[None].astype(p.dtype), p * (1 - p)
