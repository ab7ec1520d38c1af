"""The protocol of trained operands. It holds no values: these are passed in and out."""

import abc
import dataclasses
from typing import Any, Literal

from qjax._typing import Array, Axes, Key, PyTree, Shape
from qjax.qtypes import QType

Granularity = Literal["tensor", "channel"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Operand(abc.ABC):
    """What a forward operand of a contraction goes through before it is contracted.

    It stands in `Gemm.lhs` or `Gemm.rhs` of `Policy.fwd`. `apply` is ordinary differentiable
    code, run before the contraction's own derivative rule: the gradient that the contraction
    gives for its operand goes on through `apply` to `x` and to the learned values. The other
    legs of the policy see the values that `apply` gave.

    A subclass is a frozen dataclass registered as a pytree (numbers leaves, choices metadata),
    so that a policy that holds it can be hashed, compared, pickled and mapped:

        @jax.tree_util.register_static
        @dataclasses.dataclass(frozen=True, kw_only=True)
        class Ternary(Operand):
            '''Signs times the mean magnitude, zero below half of it (BitNet b1.58).'''

            @property
            def qtype(self):
                return QType(formats.TERNARY, Tile(), formats.FLOAT32)

            def apply(self, x, params, state, *, contract, batch, key):
                scale = jax.lax.stop_gradient(jnp.mean(jnp.abs(x)))
                return gradients.round_through(jnp.clip(x / scale, -1, 1)) * scale, state

    With `params` it would learn, with `state` remember, with `penalty` add to the loss.
    """

    @property
    @abc.abstractmethod
    def qtype(self) -> QType:
        """The type of what `apply` gives, for reports, costs and packing."""

    @property
    def stochastic(self) -> bool:
        """Whether `apply` draws random bits, so that it needs a key."""
        return False

    def params(self, x: Array, *, contract: Axes, batch: Axes) -> dict[str, Array]:
        """Returns the learned values before training, found from the operand's first values.

        Args:
          x: The operand.
          contract: The axes of `x` that the contraction sums over.
          batch: The axes of `x` that both operands and the result share.
        """
        del x, contract, batch
        return {}

    def state(self, x: Array, *, contract: Axes, batch: Axes) -> PyTree:
        """Returns the running statistics before the first call; `()` where there are none.

        Only shapes may be read from `x`; leaves are non-negative float32 arrays, because states
        that come from several places are combined by their elementwise maximum.
        """
        del x, contract, batch
        return ()

    @abc.abstractmethod
    def apply(
        self,
        x: Array,
        params: dict[str, Array],
        state: PyTree,
        *,
        contract: Axes,
        batch: Axes,
        key: Key | None,
    ) -> tuple[Array, PyTree]:
        """Returns the values that are contracted, with shape and dtype of `x`, and the state."""

    def penalty(
        self, x: Array, params: dict[str, Array], *, contract: Axes, batch: Axes
    ) -> Array | None:
        """Returns a scalar that training adds to the loss, differentiable; None for none."""
        del x, params, contract, batch
        return None

    def choice(self, x: Array, params: dict[str, Array], *, contract: Axes) -> Array | None:
        """Returns which choice each sample took, for a `Chosen` of the other legs; None for none.

        Ones and zeros of shape (samples, choices), samples along the first axis of `x`.
        """
        del x, params, contract
        return None

    def grid(
        self, x: Array, params: dict[str, Array], *, contract: Axes, batch: Axes
    ) -> Array | None:
        """Returns the step that the values of `apply` are integers times of; None for no such step.

        It broadcasts to `x`, with one number along contracted axes.
        """
        del x, params, contract, batch
        return None

    @property
    def widths(self) -> tuple[float, float]:
        """The fewest and the most bits per element that may be used; alike where nothing varies."""
        bits = self.qtype.bits_per_element
        return (bits, bits)

    @property
    def penalized(self) -> bool:
        """Whether the operand adds to the loss."""
        return type(self).penalty is not Operand.penalty


def learned_shape(x: Array, granularity: Granularity, contract: Axes) -> Shape:
    """Shape of values that are learned one for a tensor, or for each index that is kept."""
    if granularity == "tensor":
        return ()
    summed = {axis % x.ndim for axis in contract}
    return tuple(1 if axis in summed else n for axis, n in enumerate(x.shape))


def reduced(x: Array, granularity: Granularity, contract: Axes) -> dict[str, Any]:
    """Arguments of a reduction whose result has the shape of `learned_shape`."""
    if granularity == "tensor":
        return {"axis": None, "keepdims": False}
    return {"axis": tuple(axis % x.ndim for axis in contract), "keepdims": True}
