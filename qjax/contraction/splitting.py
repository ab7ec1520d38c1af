"""An operand as the sum of two quantized parts: its high bits, and the low bits of what is left.

Each part has its own codes and scale, so that a product with the operand is two products of
narrow operands. This file only splits; `sampling` says which terms of such products are drawn.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from qjax._typing import Array, Axes, DTypeLike, Key
from qjax.formats import Format
from qjax.qtypes import QType
from qjax.quantizer import Quantizer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BitSplit:
    """Quantizes an operand, and then what that left over.

    Attributes:
      high: Quantizer of the operand.
      low: Quantizer of the difference between the operand and its high part.

    References:
      Xi et al. 2023, "Training Transformers with 4-bit Integers" (arXiv 2306.11987), section 4.
    """

    high: Any
    low: Any

    def __post_init__(self):
        for name in ("high", "low"):
            value = getattr(self, name)
            if isinstance(value, str | QType | Format):
                object.__setattr__(self, name, Quantizer(value))

    @property
    def stochastic(self) -> bool:
        """Whether a part is rounded with noise."""
        return self.high.stochastic or self.low.stochastic

    def parts(
        self,
        x: Array,
        *,
        contract: Axes = (-1,),
        batch: Axes = (),
        key: Key | None = None,
        dtype: DTypeLike | None = None,
    ) -> tuple[Array, Array]:
        """The values of both parts; arguments as for `Quantizer.cast`."""
        where = {"contract": contract, "batch": batch}
        keys = (None, None) if key is None else (key, jax.random.fold_in(key, 1))
        wide = jnp.float64 if x.dtype == jnp.float64 else jnp.float32
        high = self.high.cast(x, **where, key=keys[0], dtype=wide)
        low = self.low.cast(x.astype(wide) - high, **where, key=keys[1], dtype=wide)
        dtype = x.dtype if dtype is None else dtype
        return high.astype(dtype), low.astype(dtype)
