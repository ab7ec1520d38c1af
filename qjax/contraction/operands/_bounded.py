"""Integer weights that no input can make an accumulator overflow with."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from qjax import formats, gradients
from qjax._typing import Array, Axes, PyTree
from qjax.contraction.operands._base import Operand
from qjax.formats import Int
from qjax.qtypes import QType
from qjax.tiling import Tile


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class L1Bounded(Operand):
    """Weights with a learned step and a learned, bounded sum of magnitudes per channel.

    The integers of a channel (what one sum runs over) are such that no sum of their products
    with inputs of `input_bits` integers leaves an accumulator of `accumulator` bits, whatever
    the inputs and the order of the sum (`gradients.l1_bounded`). Steps and sums are learned as
    logarithms of base 2. The inputs' own quantizer must give integers of that width times one
    scale per sum.

    Attributes:
      bits: Bits of the weights' integers; their range is symmetric.
      accumulator: Bits of the accumulator, 2 to 31.
      input_bits: Bits of the inputs' integers.
      input_signed: Whether those reach below zero.
      centred: Whether each channel's mean is taken away first, which doubles the bound (A2Q+).
      price: Factor of the penalty, the sum over channels of how many powers of two the learned
        sum is above its limit; 0 for none.

    References:
      Colbert et al., "A2Q", ICCV 2023, arXiv:2308.13504; "A2Q+", 2024, arXiv:2401.10432.
    """

    bits: int = dataclasses.field(default=4, metadata={"static": True})
    accumulator: int = dataclasses.field(default=16, metadata={"static": True})
    input_bits: int = dataclasses.field(default=4, metadata={"static": True})
    input_signed: bool = dataclasses.field(default=True, metadata={"static": True})
    centred: bool = dataclasses.field(default=False, metadata={"static": True})
    price: Any = 0.0

    def __post_init__(self):
        least = 1 + int(self.input_signed)
        good = 2 <= self.bits <= 16 and 2 <= self.accumulator <= 31
        if not good or not least <= self.input_bits <= 16:
            raise ValueError(
                f"`L1Bounded` takes 2 to 16 bits, an accumulator of 2 to 31 and inputs of {least} "
                f"to 16, but bits={self.bits}, accumulator={self.accumulator} and "
                f"input_bits={self.input_bits} came. Give for instance 4, 16 and 4."
            )

    @property
    def limit(self) -> float:
        """The largest sum of magnitudes of a channel's integers."""
        return gradients.l1_limit(
            self.accumulator, self.input_bits, signed=self.input_signed, centred=self.centred
        )

    @property
    def qtype(self) -> QType:
        return QType(Int(self.bits), Tile(None, 1), formats.FLOAT32)  # type: ignore[arg-type]

    def params(self, x: Array, *, contract: Axes, batch: Axes) -> dict[str, Array]:
        sizes = jnp.abs(x.astype(jnp.float32))
        step = jnp.max(sizes, axis=contract, keepdims=True) / ((1 << (self.bits - 1)) - 1)
        step = jnp.log2(jnp.where(step > 0, step, 1))
        norm = jnp.sum(sizes, axis=contract, keepdims=True)
        norm = jnp.log2(jnp.where(norm > 0, norm, 1))
        # No channel starts beyond the limit, where its norm would learn nothing.
        return {"log_step": step, "log_norm": jnp.minimum(norm, step + jnp.log2(self.limit))}

    def apply(self, x, params, state, *, contract, batch, key) -> tuple[Array, PyTree]:
        values = gradients.l1_bounded(
            x.astype(jnp.float32),
            jnp.exp2(params["log_norm"]),
            jnp.exp2(params["log_step"]),
            bits=self.bits,
            accumulator=self.accumulator,
            input_bits=self.input_bits,
            signed=self.input_signed,
            centred=self.centred,
            axis=contract,
        )
        return values, state

    def grid(self, x, params, *, contract, batch) -> Array:
        return jnp.exp2(params["log_step"])

    def penalty(self, x, params, *, contract, batch) -> Array | None:
        above = params["log_norm"] - params["log_step"] - jnp.log2(self.limit)
        return self.price * jnp.sum(jnp.maximum(above, 0))
