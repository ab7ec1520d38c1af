"""An operand whose samples are quantized by different quantizers, as something else has chosen.

Samples lie along the first axis, as in every layer of Flax. Who chooses is a trained operand of
the forward leg (`operands.Gated`); this file only carries the choice out.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from qjax._typing import Array, Axes, DTypeLike, Key
from qjax.formats import Format
from qjax.qtypes import QType
from qjax.quantizer import Quantizer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Chosen:
    """Quantizes every sample of an operand by the quantizer that was chosen for it.

    It stands for the incoming gradient in `Policy.dlhs` and `Policy.drhs`, beside an operand of
    the forward leg that chooses. The samples of a choice are quantized together, without the
    others, so that the scales are theirs.

    Attributes:
      quantizers: The choices.
      choice: Ones and zeros of shape (samples, choices), a single one per sample. It is put in
        while a contraction is computed; None in a policy.
    """

    quantizers: tuple[Any, ...]
    choice: Array | None = None

    def __post_init__(self):
        kinds = str | QType | Format
        if isinstance(self.quantizers, list | tuple):
            made = (Quantizer(q) if isinstance(q, kinds) else q for q in self.quantizers)
            object.__setattr__(self, "quantizers", tuple(made))

    @property
    def qtype(self) -> QType:
        """The widest type among the choices."""
        return widest(self.quantizers)

    @property
    def stochastic(self) -> bool:
        """Whether a choice draws random bits."""
        return any(q.stochastic for q in self.quantizers)

    def cast(
        self,
        x: Array,
        *,
        contract: Axes = (-1,),
        batch: Axes = (),
        key: Key | None = None,
        dtype: DTypeLike | None = None,
    ) -> Array:
        """Returns the quantized samples; arguments as for `Quantizer.cast`.

        Raises:
          ValueError: If nothing was chosen, or the first axis of `x` is not that of the samples.
        """
        if self.choice is None or x.shape[:1] != self.choice.shape[:1]:
            chosen = "nothing was" if self.choice is None else f"{self.choice.shape[0]} were"
            raise ValueError(
                f"`Chosen` quantizes samples along the first axis of an array of shape {x.shape}, "
                f"but {chosen} chosen for. It stands for the incoming gradient beside an operand "
                "of `fwd.lhs` that chooses, such as `operands.Gated`."
            )
        own = self.choice.T.reshape(-1, x.shape[0], *(1,) * (x.ndim - 1)) > 0
        parts = jnp.where(own, x, jnp.zeros_like(x))
        where = {"contract": contract, "batch": batch, "dtype": dtype}
        values = casts(self.quantizers, parts, key=key, **where)
        # Not every type holds zero, and other samples are none of a choice's business.
        return jnp.sum(jnp.where(own, values, jnp.zeros_like(values)), axis=0)


def casts(quantizers: Sequence[Any], parts: Array, *, key: Key | None, **where: Any) -> Array:
    """What each of several quantizers makes of its own array.

    Quantizers that differ in numbers alone are one program, mapped over these.

    Args:
      quantizers: One for each index of the first axis of `parts`.
      parts: The arrays, stacked.
      key: Key of the noise, of which each has its own.
      **where: Further arguments of `Quantizer.cast`.

    Returns:
      The values, stacked.
    """
    keys = (
        None
        if key is None
        else jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(quantizers)))
    )

    def cast(quantizer: Any, part: Array, key: Key | None) -> Array:
        return quantizer.cast(part, key=key, **where)

    trees = {jax.tree.structure(quantizer) for quantizer in quantizers}
    if len(trees) > 1:
        each = zip(quantizers, parts, [None] * len(quantizers) if keys is None else keys)
        return jnp.stack([cast(*one) for one in each])
    columns = list(zip(*(jax.tree.leaves(quantizer) for quantizer in quantizers)))
    # Numbers that all share stay Python numbers, on which XLA specializes.
    varies = [any(value != column[0] for value in column[1:]) for column in columns]
    stacked = [jnp.asarray(c) if v else c[0] for c, v in zip(columns, varies)]
    axes = [0 if v else None for v in varies]
    (tree,) = trees

    def of_numbers(moving: list[Array], part: Array, key: Key | None) -> Array:
        given = iter(moving)
        leaves = [next(given) if v else leaf for v, leaf in zip(varies, stacked)]
        return cast(jax.tree.unflatten(tree, leaves), part, key)

    moving = [leaf for leaf, axis in zip(stacked, axes) if axis == 0]
    return jax.vmap(of_numbers)(moving, parts, keys)


def widest(quantizers: tuple[Any, ...]) -> QType:
    """The type with the most bits per element; of several the first."""
    return max((q.qtype for q in quantizers), key=lambda qtype: qtype.bits_per_element)
