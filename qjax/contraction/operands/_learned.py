"""Operands with learned steps, bounds and widths. The math is `qjax.gradients`'."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from qjax import formats, gradients
from qjax._typing import Array, Axes, PyTree
from qjax.contraction.operands._base import Granularity, Operand, reduced
from qjax.formats import Int
from qjax.qtypes import QType
from qjax.tiling import Tile

_TENSOR, _CHANNEL = Tile(), Tile(None, 1)


def _tile(granularity: Granularity) -> Tile:
    return _CHANNEL if granularity == "channel" else _TENSOR


def _no_zero(x: Array) -> Array:
    """Ones where a step found from values would be zero."""
    return jnp.where(x > 0, x, 1)


def _check_bits(owner: str, bits: Any, least: int = 1) -> None:
    if not isinstance(bits, int) or not least <= bits <= 16:
        raise ValueError(
            f"`{owner}` takes `bits` as a whole number from {least} to 16, but {bits!r} came. "
            "Give for instance 4."
        )


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, kw_only=True)
class LSQ(Operand):
    """Integers times a learned step (`gradients.lsq`).

    Attributes:
      bits: Width of the integers.
      signed: Whether they reach below zero; False for what follows a ReLU.
      granularity: One step for the "tensor", or for a weight one for each "channel", that is for
        each index that is not summed over.
      narrow: Whether the most negative integer is left out, so that the range is symmetric.
      learned: Whether the step is learned. Otherwise it is at every call what a first step would
        be, as at the cold start of training from scratch.

    References:
      Esser et al., "Learned step size quantization", ICLR 2020, arXiv:1902.08153: also the
      first step, `2 * mean(|x|) / sqrt(high)`. The cold start: Xi et al., "Training transformers
      with 4-bit integers", 2023, arXiv:2306.11987, appendix A.
    """

    bits: int = 4
    signed: bool = True
    granularity: Granularity = "tensor"
    narrow: bool = False
    learned: bool = True

    def __post_init__(self):
        _check_bits("LSQ", self.bits, 2 if self.signed else 1)

    @property
    def range(self) -> tuple[int, int]:
        """The smallest and the largest integer."""
        top = 1 << self.bits
        return (-top // 2 + self.narrow, top // 2 - 1) if self.signed else (0, top - 1)

    @property
    def qtype(self) -> QType:
        format = Int(self.bits, signed=self.signed, narrow=self.narrow)
        return QType(format, _tile(self.granularity), formats.FLOAT32)  # type: ignore[arg-type]

    def params(self, x: Array, *, contract: Axes, batch: Axes) -> dict[str, Array]:
        return {"step": self._first(x, contract)} if self.learned else {}

    def _first(self, x: Array, contract: Axes) -> Array:
        size = jnp.mean(jnp.abs(x.astype(jnp.float32)), **reduced(x, self.granularity, contract))
        return _no_zero(2 * size / self.range[1] ** 0.5)

    def apply(self, x, params, state, *, contract, batch, key) -> tuple[Array, PyTree]:
        low, high = self.range
        step = self._step(x, params, contract)
        return gradients.lsq(x, step, low=low, high=high), state

    def grid(self, x, params, *, contract, batch) -> Array | None:
        return self._step(x, params, contract)

    def _step(self, x: Array, params: dict[str, Array], contract: Axes) -> Array:
        step = params["step"] if self.learned else self._first(jax.lax.stop_gradient(x), contract)
        return step.astype(x.dtype)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, kw_only=True)
class LSQPlus(LSQ):
    """Integers times a learned step, plus a learned offset (`gradients.lsq_plus`).

    The first step and offset take the whole range of the first values.

    References:
      Bhalgat et al., "LSQ+", CVPR workshops 2020, arXiv:2004.09576.
    """

    def params(self, x: Array, *, contract: Axes, batch: Axes) -> dict[str, Array]:
        low, high = self.range
        over, values = reduced(x, self.granularity, contract), x.astype(jnp.float32)
        bottom = jnp.min(values, **over)
        step = _no_zero((jnp.max(values, **over) - bottom) / (high - low))
        return {"step": step, "offset": bottom - low * step}

    def apply(self, x, params, state, *, contract, batch, key) -> tuple[Array, PyTree]:
        low, high = self.range
        step, offset = (params[name].astype(x.dtype) for name in ("step", "offset"))
        return gradients.lsq_plus(x, step, offset, low=low, high=high), state

    def grid(self, x, params, *, contract, batch) -> None:
        return None  # The offset is no multiple of the step.


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class PACT(Operand):
    """Values clipped to [0, bound] with a learned bound, then evenly spaced (`gradients.pact`).

    Attributes:
      bits: Width of the codes.
      bound: The bound before training, in the units of the operand.
      decay: Factor of the penalty `bound**2`; 0 for none.

    References:
      Choi et al., "PACT", 2018, arXiv:1805.06085.
    """

    bits: int = dataclasses.field(default=4, metadata={"static": True})
    bound: Any = 10.0
    decay: Any = 0.0

    def __post_init__(self):
        _check_bits("PACT", self.bits)

    @property
    def qtype(self) -> QType:
        return QType(Int(self.bits, signed=False), _TENSOR, formats.FLOAT32)  # type: ignore[arg-type]

    def params(self, x: Array, *, contract: Axes, batch: Axes) -> dict[str, Array]:
        return {"bound": jnp.asarray(self.bound, jnp.float32)}

    def apply(self, x, params, state, *, contract, batch, key) -> tuple[Array, PyTree]:
        return gradients.pact(x, params["bound"].astype(x.dtype), self.bits), state

    def grid(self, x, params, *, contract, batch) -> Array:
        return params["bound"].astype(x.dtype) / ((1 << self.bits) - 1)

    def penalty(self, x, params, *, contract, batch) -> Array | None:
        return self.decay * jnp.square(params["bound"])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnedBits(Operand):
    """A learned, fractional bit width (`gradients.learned_bits`), and a price on bits.

    Attributes:
      bits: The width before training.
      price: Factor of the penalty, the learned width; 0 for none.
      by_size: Whether the price is per element, so that large operands pay more.

    References:
      Nikolic et al., "BitPruning", 2020, arXiv:2002.03090.
    """

    bits: Any = 8.0
    price: Any = 0.0
    by_size: bool = dataclasses.field(default=False, metadata={"static": True})
    widest: ClassVar[int] = 16

    @property
    def qtype(self) -> QType:
        """The widest type that can be learned: which one is, only the learned values say."""
        return QType(Int(self.widest, signed=False), _TENSOR, formats.FLOAT32)  # type: ignore[arg-type]

    @property
    def widths(self) -> tuple[float, float]:
        return 1.0, float(self.widest)

    def params(self, x: Array, *, contract: Axes, batch: Axes) -> dict[str, Array]:
        return {"bits": jnp.asarray(self.bits, jnp.float32)}

    def apply(self, x, params, state, *, contract, batch, key) -> tuple[Array, PyTree]:
        return gradients.learned_bits(x, params["bits"].astype(x.dtype), most=self.widest), state

    def penalty(self, x, params, *, contract, batch) -> Array | None:
        elements = float(x.size) if self.by_size else 1.0
        return self.price * elements * jnp.clip(params["bits"], 1.0, self.widest)
