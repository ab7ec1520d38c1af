"""The trained model on integers alone: weights of few bits, inputs of eight, sums of 32.

One multiplication per output by a float32 factor takes a sum to the next layer's integers;
hardware does it with an integer and a shift. Everything else adds and multiplies whole numbers.
"""

import dataclasses
from typing import Any

import numpy as np

from qjax import Policy, gradients

from .training import CONTEXT, windows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """A dense layer on integers.

    Attributes:
      weights: [K, N] int8 codes of few bits.
      bias: [N] int32, in units of the products.
      step: Value of one unit of an input.
      scale: Value of one unit of a weight.
      levels: The smallest and largest integer of an input.
    """

    weights: np.ndarray
    bias: np.ndarray
    step: float
    scale: float
    levels: tuple[int, int]

    def encode(self, x: np.ndarray) -> np.ndarray:
        """Inputs as integers of eight bits."""
        units = np.round(x / np.float32(self.step))
        return np.clip(units, *self.levels).astype(np.int32)

    def sums(self, codes: np.ndarray) -> np.ndarray:
        """Outputs in units of `step * scale`, int32."""
        return codes @ self.weights.astype(np.int32) + self.bias

    @property
    def operations(self) -> int:
        """Multiplications with additions, and additions of the bias, for one frame."""
        return self.weights.size + self.bias.size


def export(params: Any, policy: Policy) -> list[Layer]:
    """The layers of a model of the second stage, in order.

    Args:
      params: Its parameters.
      policy: What it computes in.
    """
    weights: Any = policy.fwd.rhs
    low, high = policy.fwd.lhs.range  # type: ignore[union-attr]
    layers = []
    for name in sorted(name for name in params if name.startswith("dense_")):
        held = params[name]
        tensor = weights.then.quantizer.encode(gradients.squash(held["kernel"]), contract=(0,))
        step, scale = (
            float(held["quant"]["fwd_lhs"]["step"]),
            float(np.ravel(tensor.scale.qvalue)[0]),
        )
        bias = np.round(np.asarray(held["bias"], np.float64) / (step * scale)).astype(np.int32)
        codes = np.asarray(tensor.qvalue)
        layers.append(Layer(weights=codes, bias=bias, step=step, scale=scale, levels=(low, high)))
    return layers


def run(layers: list[Layer], x: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Logits of windows [..., F], and the integers that went into each layer."""
    inputs = []
    for n, layer in enumerate(layers):
        codes = layer.encode(x)
        inputs.append(codes)
        x = (layer.sums(codes) * np.float64(layer.step * layer.scale)).astype(np.float32)
        x = np.maximum(x, 0) if n < len(layers) - 1 else x
    return x, inputs


class Stream:
    """Frames in, logits out, one at a time; all it holds is the frames of the context."""

    def __init__(self, layers: list[Layer], bands: int):
        self._layers = layers
        self._frames = np.zeros((0, bands), np.float32)

    def __call__(self, frame: np.ndarray) -> np.ndarray | None:
        """Takes a frame [BANDS]; returns logits [2], or None while the context fills."""
        self._frames = np.concatenate([self._frames, frame[None]])[-CONTEXT:]
        if len(self._frames) < CONTEXT:
            return None
        return run(self._layers, windows(self._frames)[0])[0]


def memory(layers: list[Layer], bits: int) -> int:
    """Bytes of weights of `bits` bits and of 32-bit biases."""
    weights = sum(layer.weights.size for layer in layers)
    return (weights * bits + 7) // 8 + 4 * sum(layer.bias.size for layer in layers)
