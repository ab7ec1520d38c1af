"""Elements made smaller before they are rounded, so that none saturates, and larger again after."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from qjax import casting
from qjax._typing import Array, Axes, DTypeLike, Key
from qjax.calibration import AbsMax, Search
from qjax.qtypes import QType
from qjax.quantizer._quantizer import Quantizer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Shrunk:
    """A quantizer that rounds `factor * x` with the scales of `x`, and divides the factor out.

    A scale that is a power of two below the largest magnitude (the floor rule of MX) lets elements
    saturate, and noise around what saturated is biased. With 3/4 for E2M1 nothing does.

    It stands where a `Quantizer` does: as the operand of a contraction.

    Attributes:
      quantizer: The quantizer; its scales are found from the largest magnitude.
      factor: In (0, 1].

    References:
      Tseng et al. 2025, "Training LLMs with MXFP4", arXiv:2502.20586, from the authors' code.
    """

    quantizer: Any
    factor: float = dataclasses.field(default=0.75, metadata={"static": True})

    def __post_init__(self):
        if not isinstance(self.quantizer, Quantizer):
            return  # Rebuilt by tree utilities, with a placeholder inside.
        if self.quantizer.calibration != AbsMax() or not 0 < self.factor <= 1:
            raise ValueError(
                "`Shrunk` takes a Quantizer with scales from the largest magnitude and a factor in "
                f"(0, 1], but {self.quantizer!r} and {self.factor!r} came."
            )

    @property
    def qtype(self) -> QType:
        """What an element is stored as; the factor is the same for all tensors."""
        return self.quantizer.qtype

    @property
    def stochastic(self) -> bool:
        """Whether the rounding draws random bits, so that calls need a key."""
        return self.quantizer.stochastic

    def cast(
        self,
        x: Array,
        *,
        contract: Axes | None = None,
        batch: Axes = (),
        key: Key | None = None,
        dtype: DTypeLike | None = None,
    ) -> Array:
        """Returns the rounded values; arguments as for `Quantizer.cast`."""
        casting.check_floating(x, "cast")
        wide = jnp.float64 if x.dtype == jnp.float64 else jnp.float32
        # Bounds of what is small are made those of what it was.
        whole = dataclasses.replace(self.quantizer, calibration=Search((1 / self.factor,)))
        small = whole.cast(x.astype(wide) * self.factor, contract=contract, batch=batch, key=key)
        return (small / self.factor).astype(x.dtype if dtype is None else dtype)
