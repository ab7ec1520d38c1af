"""Normalization by the mean magnitude instead of the root of the mean square.

No squares and no root: sums of integers and one division do, which is why integer training
replaces layer normalization by it. Statistics over a batch are not kept here.
"""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from qjax._typing import Array

# The standard deviation of a Gaussian in units of its mean magnitude.
GAUSSIAN = math.sqrt(math.pi / 2)


def l1_normalize(x: Array, axes: int | Sequence[int] = -1, *, epsilon: float = 1e-6) -> Array:
    """Returns `x` minus its mean, over its mean magnitude times `sqrt(pi / 2)`.

    On Gaussian values this is what division by the standard deviation gives.

    Args:
      x: Floating-point array.
      axes: The axes that are normalized together.
      epsilon: Added to the mean magnitude.

    References:
      "ShiftQuant", arXiv:2411.10948; whether its layers keep the factor could not be verified.
    """
    axes = (axes,) if isinstance(axes, int) else tuple(axes)
    centered = x - jnp.mean(x, axis=axes, keepdims=True)
    size = GAUSSIAN * jnp.mean(jnp.abs(centered), axis=axes, keepdims=True)
    return centered / (size + epsilon)


class L1Norm(nn.Module):
    """Layer normalization by mean magnitudes, with a learned scale and offset per feature.

    Attributes:
      epsilon: Added to the mean magnitude.
      use_scale: Whether a scale is learned.
      use_bias: Whether an offset is learned.
    """

    epsilon: float = 1e-6
    use_scale: bool = True
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Normalizes the last axis of `x`, of any shape."""
        y = l1_normalize(x, epsilon=self.epsilon)
        if self.use_scale:
            y = y * self.param("scale", nn.initializers.ones, (x.shape[-1],)).astype(x.dtype)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (x.shape[-1],)).astype(x.dtype)
        return y
