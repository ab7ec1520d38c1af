"""Operands on evenly spaced values between two ends, fixed or learned; `gradients` has the math."""

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


def _check(owner: str, bits: Any, low: Any, high: Any) -> None:
    numbers = isinstance(low, int | float) and isinstance(high, int | float)
    if not isinstance(bits, int) or not 1 <= bits <= 16 or (numbers and not low < high):
        raise ValueError(
            f"`{owner}` takes `bits` from 1 to 16 and `low` below `high`, but bits={bits!r}, "
            f"low={low!r} and high={high!r} came. Give for instance bits=4, low=0.0, high=1.0."
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Spaced(Operand):
    """Values clipped to [low, high] and rounded to `2**bits` evenly spaced ones.

    Attributes:
      bits: Width of the codes.
      low: Smallest value; before training, where it is learned.
      high: Largest value; before training, where it is learned.
      learned: Which ends are learned (`gradients.spaced`): "low", "high", both or none. With
        `low` 0 and `high` learned this is PACT+.
    """

    bits: int = dataclasses.field(default=4, metadata={"static": True})
    low: Any = 0.0
    high: Any = 1.0
    learned: tuple[str, ...] = dataclasses.field(default=(), metadata={"static": True})

    def __post_init__(self):
        _check("Spaced", self.bits, self.low, self.high)

    @property
    def qtype(self) -> QType:
        return QType(Int(self.bits, signed=False), Tile(), formats.FLOAT32)  # type: ignore[arg-type]

    def params(self, x: Array, *, contract: Axes, batch: Axes) -> dict[str, Array]:
        return {name: jnp.asarray(getattr(self, name), jnp.float32) for name in self.learned}

    def apply(self, x, params, state, *, contract, batch, key) -> tuple[Array, PyTree]:
        ends = {"low": self.low, "high": self.high, **params}
        return gradients.spaced(x, ends["low"], ends["high"], bits=self.bits), state

    def grid(self, x, params, *, contract, batch) -> Array | None:
        from_zero = "low" not in self.learned and isinstance(self.low, int | float) and not self.low
        high = jnp.asarray(params.get("high", self.high), x.dtype)
        return high / ((1 << self.bits) - 1) if from_zero else None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class SoftLevels(Operand):
    """Evenly spaced values with soft derivatives, learned ends and a learned softness.

    The first ends are those of the first values.

    Attributes:
      bits: Width of the codes.
      softness: Before training: how far the derivative is from that of a staircase, in (0, 0.5).

    References:
      Gong et al., "Differentiable soft quantization", ICCV 2019, arXiv:1908.05033.
    """

    bits: int = dataclasses.field(default=4, metadata={"static": True})
    softness: Any = 0.2

    def __post_init__(self):
        _check("SoftLevels", self.bits, 0, 1)

    @property
    def qtype(self) -> QType:
        return QType(Int(self.bits, signed=False), Tile(), formats.FLOAT32)  # type: ignore[arg-type]

    def params(self, x: Array, *, contract: Axes, batch: Axes) -> dict[str, Array]:
        values = x.astype(jnp.float32)
        low, high = jnp.min(values), jnp.max(values)
        softness = jnp.asarray(self.softness, jnp.float32)
        return {"low": low, "high": jnp.where(high > low, high, low + 1), "softness": softness}

    def apply(self, x, params, state, *, contract, batch, key) -> tuple[Array, PyTree]:
        low, high, softness = (params[name] for name in ("low", "high", "softness"))
        return gradients.soft_levels(x, low, high, softness, bits=self.bits), state
