"""Bounds that clip: percentiles, multiples of the root mean square, entropy, error search."""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from qjax._typing import Array
from qjax.calibration._base import Calibration, largest, magnitude, pattern


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Percentile(Calibration):
    """A percentile of the magnitudes.

    Attributes:
      percent: In (0, 100].
    """

    percent: float = 99.9

    def __post_init__(self):
        if not 0 < self.percent <= 100:
            raise ValueError(
                f"`Percentile` was asked for percent={self.percent}. Give one in (0, 100]."
            )

    def __call__(self, view: Array, axes: tuple[int, ...], state: Any = ()) -> tuple[Array, Any]:
        sizes = jnp.abs(view.astype(jnp.float32))
        return pattern(jnp.percentile(sizes, self.percent, axis=axes, keepdims=True)), state

    def limits(self, view: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
        """Returns the percentile from either end, zero between them."""
        values = view.astype(jnp.float32)
        low = jnp.percentile(values, 100 - self.percent, axis=axes, keepdims=True)
        high = jnp.percentile(values, self.percent, axis=axes, keepdims=True)
        return jnp.minimum(low, 0), jnp.maximum(high, 0)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class RootMeanSquare(Calibration):
    """A multiple of the root mean square, at most the largest magnitude.

    Attributes:
      factor: Bound in units of the root mean square; 2.5 to 4 is usual for int4 to int8.
    """

    factor: float = 3.0

    def __call__(self, view: Array, axes: tuple[int, ...], state: Any = ()) -> tuple[Array, Any]:
        values = view.astype(jnp.float32)
        bound = self.factor * jnp.sqrt(jnp.mean(values * values, axis=axes, keepdims=True))
        return jnp.minimum(pattern(bound), largest(view, axes)), state


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Moments(Calibration):
    """`second * sqrt(mean(x**2)) + first * mean(|x|)`, where that is positive, else the maximum.

    Two moments say where the error of rounding and that of clipping balance, for weights between
    Gaussian and heavy-tailed. `sawb` gives the published coefficients.

    Attributes:
      second: Weight of the root mean square.
      first: Weight of the mean magnitude.
    """

    second: float
    first: float

    def __call__(self, view: Array, axes: tuple[int, ...], state: Any = ()) -> tuple[Array, Any]:
        values = view.astype(jnp.float32)
        spread = jnp.sqrt(jnp.mean(values * values, axis=axes, keepdims=True))
        mean = jnp.mean(jnp.abs(values), axis=axes, keepdims=True)
        bound = self.second * spread + self.first * mean
        # A NaN is not positive and is left to the maximum, which it is.
        return jnp.where(bound > 0, pattern(bound), largest(view, axes)), state


# Coefficients of the second and the first moment, by bits.
SAWB = {
    2: (3.12, -2.064),
    3: (7.509, -6.892),
    4: (12.68, -12.80),
    5: (17.74, -18.64),
    8: (31.76, -35.04),
}


def sawb(bits: int) -> Moments:
    """Returns statistics-aware weight binning: the clip of least error for integers of `bits`.

    The coefficients are those of IBM's code (fms-model-optimizer); for 2 bits
    others are in use too. Where they give no positive bound, as for constants, the maximum holds.

    References:
      Choi et al., "Accurate and efficient 2-bit quantized neural networks", MLSys 2019.

    Raises:
      ValueError: If no coefficients are published for these bits.
    """
    if bits not in SAWB:
        raise ValueError(
            f"`sawb` was asked for bits={bits}. Coefficients are published for "
            f"{', '.join(map(str, SAWB))} bits; give `Moments` your own for others."
        )
    return Moments(*SAWB[bits])


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class MeanAbsMax(Calibration):
    """The mean, over parts of a tile, of each part's largest magnitude: outliers weigh less.

    Attributes:
      axis: The axis of a tile (of those in it, counted from its last) along which parts are
        averaged; the maxima run over the others.
    """

    axis: int = 0

    def __call__(self, view: Array, axes: tuple[int, ...], state: Any = ()) -> tuple[Array, Any]:
        if not axes:
            return largest(view, axes), state
        over = axes[self.axis % len(axes)]
        rest = tuple(axis for axis in axes if axis != over)
        parts = magnitude(largest(view, rest))
        return pattern(jnp.mean(parts, axis=over, keepdims=True)), state


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Search(Calibration):
    """The fraction of the largest magnitude with the least squared error of the tile.

    The Quantizer tries every fraction with its own format, scale format and rounding.

    Attributes:
      fractions: Candidates in (0, 1].
    """

    fractions: tuple[float, ...] = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.5, 0.4)

    def __call__(self, view: Array, axes: tuple[int, ...], state: Any = ()) -> tuple[Array, Any]:
        return largest(view, axes), state


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Entropy(Calibration):
    """The clip with the least Kullback-Leibler divergence between histograms.

    Magnitudes are binned; each candidate clips the histogram, merges it into the levels of the
    target and spreads these again (Migacz, "8-bit inference with TensorRT", 2017).

    Attributes:
      levels: Magnitudes of the target, 128 for int8.
      bins: Bins of the histogram.
      candidates: Clips that are tried.
    """

    levels: int = 128
    bins: int = 1024
    candidates: int = 64
    smoothing: ClassVar[float] = 1e-6

    def __call__(self, view: Array, axes: tuple[int, ...], state: Any = ()) -> tuple[Array, Any]:
        kept = tuple(axis for axis in range(view.ndim) if axis not in axes)
        shape = tuple(view.shape[axis] for axis in kept)
        sizes = jnp.abs(view.astype(jnp.float32)).transpose(kept + axes)
        sizes = sizes.reshape(math.prod(shape), -1)
        bounds = jax.lax.map(self._tile, sizes).reshape(shape)
        return pattern(jnp.expand_dims(bounds, axes)), state

    def _tile(self, sizes: Array) -> Array:
        top = jnp.max(sizes)
        place = jnp.where(top > 0, sizes / jnp.where(top > 0, top, 1) * self.bins, 0)
        place = jnp.clip(place.astype(jnp.int32), 0, self.bins - 1)
        histogram = jnp.zeros(self.bins, jnp.float32).at[place].add(1.0)
        edges = jnp.linspace(self.levels, self.bins, self.candidates).astype(jnp.int32)
        divergences = jax.lax.map(lambda edge: self._divergence(histogram, edge), edges)
        best = edges[jnp.argmin(divergences)].astype(jnp.float32)
        return top * best / self.bins

    def _divergence(self, histogram: Array, edge: Array) -> Array:
        index = jnp.arange(self.bins)
        inside = jnp.where(index < edge, histogram, 0)
        clipped = inside.at[edge - 1].add(jnp.sum(jnp.where(index < edge, 0, histogram)))
        level = jnp.minimum(index * self.levels // edge, self.levels - 1)
        sums = jnp.zeros(self.levels).at[level].add(inside)
        filled = jnp.zeros(self.levels).at[level].add((inside > 0).astype(jnp.float32))
        spread = jnp.where(inside > 0, sums[level] / jnp.maximum(filled[level], 1), 0)
        p = clipped / jnp.sum(clipped) + self.smoothing
        q = spread / jnp.maximum(jnp.sum(spread), 1) + self.smoothing
        return jnp.sum(jnp.where(index < edge, p * jnp.log(p / q), 0))
