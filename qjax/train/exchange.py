"""Gradients averaged over devices in few bits: what travels is codes and scales.

Plain data parallelism leaves the exchange to XLA, in the gradients' own dtype. Here each device
differentiates its part of the batch, and the mean is a reduce-scatter and an all-gather of
quantized blocks: about a quarter of the traffic of float32 at eight bits.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from qjax import rounding
from qjax._typing import Array, Key, PyTree
from qjax.qtensor import QTensor
from qjax.quantizer import Quantizer
from qjax.train import memory

BLOCK = 128


def _eight_bits() -> Quantizer:
    # The OCP rule saturates the largest values of a block, which would bias the mean.
    return Quantizer("mxfp8", rounding=rounding.Stochastic(), scale="ceil")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exchange:
    """Averages gradients over a mesh axis in few bits.

    The mean is unbiased with stochastic rounding. Parameters must lie on every device. Unlike
    the rest of training, noise depends on the number of devices: each rounds what it sends.

    Attributes:
      mesh: From `make_mesh`.
      axis: The axis that batches are split over.
      quantizer: How what is sent is rounded; stochastically, in MXFP8, by default.
    """

    mesh: Mesh
    axis: str = "data"
    quantizer: Quantizer = dataclasses.field(default_factory=_eight_bits)

    def __post_init__(self) -> None:
        if self.axis not in self.mesh.axis_names:
            raise ValueError(
                f"`axis` is {self.axis!r}, but the mesh has {', '.join(self.mesh.axis_names)}. "
                "Name one of those."
            )

    def gradients(self, differentiate: Callable[..., Any], batch: PyTree, key: Key) -> Any:
        """Returns what `differentiate(batch, key) -> (outcome, grads)` gives, averaged.

        Args:
          differentiate: Called on each device with its part of the batch and a key of its own.
          batch: Leaves [B, ...], with B a multiple of the devices.
          key: Of the noise in the model and in the exchange.
        """

        def one(batch: PyTree, data: Array) -> Any:
            own = jax.random.fold_in(jax.random.wrap_key_data(data), jax.lax.axis_index(self.axis))
            outcome, grads = differentiate(batch, own)
            variables = memory.over_devices(outcome.variables, self.axis, self._plain_mean)
            outcome = jax.tree.map(self._plain_mean, outcome._replace(variables=None))
            outcome = outcome._replace(variables=variables)
            return outcome, self.mean(grads, jax.random.fold_in(own, 1))

        split, whole = PartitionSpec(self.axis), PartitionSpec()
        shared = jax.shard_map(
            one, mesh=self.mesh, in_specs=(split, whole), out_specs=whole, check_vma=False
        )
        return shared(batch, jax.random.key_data(key))

    def mean(self, grads: PyTree, key: Key) -> PyTree:
        """Averages `grads` over the axis; call it inside `jax.shard_map`."""
        leaves, tree = jax.tree.flatten(grads)
        keys = [jax.random.fold_in(key, i) for i in range(len(leaves))]
        return jax.tree.unflatten(tree, [self._mean(g, k) for g, k in zip(leaves, keys)])

    def _mean(self, grad: Array, key: Key) -> Array:
        ways = self.mesh.shape[self.axis]
        flat = grad.astype(jnp.float32).reshape(-1)
        padding = -flat.size % (ways * BLOCK)
        parts = jnp.pad(flat, (0, padding)).reshape(ways, -1, BLOCK)
        sums, back = jax.random.split(key)
        codes = self._encode(parts, sums)
        owned = _send(codes, lambda x: jax.lax.all_to_all(x, self.axis, 0, 0))
        mean = _decode(owned).mean(axis=0, keepdims=True)
        codes = self._encode(mean, back)
        whole = _decode(_send(codes, lambda x: jax.lax.all_gather(x, self.axis, tiled=True)))
        return whole.reshape(-1)[: flat.size].reshape(grad.shape).astype(grad.dtype)

    def _encode(self, x: Array, key: Key) -> QTensor:
        """Codes of [n, m, BLOCK], one quantized tensor per block."""
        encode = jax.vmap(jax.vmap(lambda block, key: self.quantizer.encode(block, key=key)))
        return encode(x, jax.random.split(key, x.shape[:2]))

    def _plain_mean(self, x: Array) -> Array:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        return jax.lax.pmean(x, self.axis)


def _decode(codes: QTensor) -> Array:
    return jax.vmap(jax.vmap(lambda block: block.decode()))(codes)


def _send(codes: QTensor, collective: Callable[[Array], Array]) -> QTensor:
    """Sends every array of `codes`; eight-bit floats travel as bytes, which all backends know."""

    def one(leaf: Array) -> Array:
        if leaf.dtype.itemsize > 1:
            return collective(leaf)
        sent = collective(jax.lax.bitcast_convert_type(leaf, jnp.uint8))
        return jax.lax.bitcast_convert_type(sent, leaf.dtype)

    return jax.tree.map(one, codes)
