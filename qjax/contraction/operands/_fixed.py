"""Fixed-point operands with a learned binary point, and the integers that hardware holds."""

import dataclasses

import jax
import jax.numpy as jnp

from qjax import formats, gradients
from qjax._typing import Array, Axes, PyTree
from qjax.contraction.operands._base import Operand
from qjax.formats import Codebook, Fixed
from qjax.qtypes import QType
from qjax.rounding import NEAREST_EVEN, Rounding
from qjax.tiling import Tile


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnedPoint(Operand):
    """Fixed-point numbers with a learned binary point (`gradients.learned_point`).

    The first binary point holds the largest of the first values.

    Attributes:
      bits: Width of the numbers, sign included.
      signed: Whether there are numbers below zero.
      rounding: Which neighbour is chosen; `gradients.fixed_code` names the modes of hardware.
      wrap: Whether what is out of range wraps around; else it saturates.
      ones: The most one-bits of an integer, so that a product is as many shifts; None for any.

    References:
      QFX, "Trainable fixed-point quantization", 2024, arXiv:2401.17544.
    """

    bits: int = 8
    signed: bool = True
    rounding: Rounding = NEAREST_EVEN
    wrap: bool = False
    ones: int | None = None

    def __post_init__(self):
        if not isinstance(self.bits, int) or not 1 + self.signed <= self.bits <= 16:
            raise ValueError(
                f"`LearnedPoint` takes `bits` as a whole number from {1 + self.signed} to 16, but "
                f"{self.bits!r} came. Give for instance 8."
            )
        if self.rounding.stochastic or (self.wrap and self.ones is not None):
            raise ValueError(
                "`LearnedPoint` rounds without noise, and few ones saturate, but "
                f"rounding={self.rounding!r}, wrap={self.wrap} and ones={self.ones} came. "
                "Give another rounding, or leave one of `wrap` and `ones` out."
            )

    @property
    def codes(self) -> Codebook | None:
        """The integers allowed, where not all are."""
        if self.ones is None:
            return None
        return formats.k_hot(self.bits, self.ones, signed=self.signed)

    @property
    def qtype(self) -> QType:
        codes = self.codes
        if codes is None:
            codes = Fixed(0, self.bits - self.signed, signed=self.signed, narrow=False)
        return QType(codes, Tile(), formats.E8M0FNU)  # type: ignore[arg-type]

    def params(self, x: Array, *, contract: Axes, batch: Axes) -> dict[str, Array]:
        largest = jnp.max(jnp.abs(x.astype(jnp.float32)), initial=0)
        return {"integer_bits": jnp.ceil(jnp.log2(jnp.where(largest > 0, largest, 1)))}

    def apply(self, x, params, state, *, contract, batch, key) -> tuple[Array, PyTree]:
        return gradients.learned_point(x, params["integer_bits"], **self._options), state

    def grid(self, x, params, *, contract, batch) -> Array:
        fraction = self.bits - self.signed - jnp.round(params["integer_bits"])
        return jnp.ldexp(jnp.float32(1), -fraction.astype(jnp.int32))

    def encode(self, x: Array, params: dict[str, Array]) -> tuple[Array, Array]:
        """Returns the int32 codes of an operand and the number of bits after the binary point.

        `codes * 2**-fraction` equals what `apply` gives.
        """
        fraction = self.bits - self.signed - jnp.round(params["integer_bits"])
        units = jnp.ldexp(x.astype(jnp.float32), fraction.astype(jnp.int32))
        codes = gradients.fixed_code(units, **self._options)
        return codes.astype(jnp.int32), fraction.astype(jnp.int32)

    @property
    def _options(self) -> dict:
        names = ("bits", "signed", "rounding", "wrap", "codes")
        return {name: getattr(self, name) for name in names}
