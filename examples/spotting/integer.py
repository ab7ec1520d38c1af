"""The trained model on integers alone: weights of few bits, inputs and gains of eight, sums of 32.

One multiplication per output by a float32 factor takes a sum to the next layer's integers;
hardware does it with an integer and a shift. Everything else adds and multiplies whole numbers.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

import qjax
from qjax import Policy, gradients

from .training import CONTEXT, GAIN, windows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """A dense layer and its normalization, on integers.

    Attributes:
      weights: [K, N] int8 codes of few bits.
      gain: [N] int8 codes that multiply sums.
      bias: [N] int32, in units of sums times gains.
      step: Value of one unit of an input.
      scale: Value of one unit of a weight times one of a gain.
      levels: The smallest and largest integer of an input.
    """

    weights: np.ndarray
    gain: np.ndarray
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
        return codes @ self.weights.astype(np.int32) * self.gain.astype(np.int32) + self.bias

    @property
    def operations(self) -> int:
        """Multiplications with additions for one frame, one per weight and one per gain."""
        return self.weights.size + self.gain.size

    @property
    def largest(self) -> int:
        """A bound of the magnitude of all sums, whatever the input."""
        most = np.abs(self.weights.astype(np.int64)).sum(0) * max(-self.levels[0], self.levels[1])
        sums = most * np.maximum(np.abs(self.gain.astype(np.int64)), 1)
        return int(np.max(sums + np.abs(self.bias.astype(np.int64))))


def export(params: Any, policy: Policy) -> list[Layer]:
    """The layers of a model of the second stage, in order.

    Args:
      params: Its parameters, those of one seed.
      policy: What it computes in.
    """
    weights: Any = policy.fwd.rhs
    levels = policy.fwd.lhs.range  # type: ignore[union-attr]
    layers = []
    for n in range(sum(name.startswith("dense_") for name in params)):
        dense, norm = params[f"dense_{n}"], params[f"norm_{n}"]
        tensor = weights.then.quantizer.encode(gradients.squash(dense["kernel"]), contract=(0,))
        kernel, unit = _codes(tensor)
        gain, gain_unit = _codes(qjax.encode(jnp.asarray(norm["gain"]), GAIN))
        step, scale = float(dense["quant"]["fwd_lhs"]["step"]), unit * gain_unit
        bias = np.round(np.asarray(norm["bias"], np.float64) / (step * scale)).astype(np.int32)
        layers.append(
            Layer(weights=kernel, gain=gain, bias=bias, step=step, scale=scale, levels=levels)
        )
    return layers


def _codes(tensor: qjax.QTensor) -> tuple[np.ndarray, float]:
    """Whole numbers and their unit; codes of signs are plus and minus one."""
    unit = float(np.ravel(tensor.scale.decode(jnp.float32))[0])  # type: ignore[union-attr]
    values = np.asarray(tensor.decode(jnp.float32), np.float64)
    return np.round(values / unit).astype(np.int8), unit


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
    """Bytes of weights of `bits` bits, gains of eight and biases of 32."""
    weights = sum(layer.weights.size for layer in layers)
    return (weights * bits + 7) // 8 + 5 * sum(layer.bias.size for layer in layers)
