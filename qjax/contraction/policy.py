"""What one contraction computes in: a quantizer for each operand of its three legs.

A contraction `out = lhs . rhs` has three legs. `fwd` computes `out`; the backward pass
computes `dlhs`, the gradient of `lhs`, from the cotangent and `rhs`; and `drhs`, the
gradient of `rhs`, from `lhs` and the cotangent. (Elsewhere these are called fprop, dgrad
and wgrad.) Each leg has two operands, so six choices are made here. This file only holds
the choices; `bilinear` carries them out.
"""

import dataclasses
from typing import Any, Literal

import jax

from qjax.formats import Format
from qjax.qtypes import QType
from qjax.quantizer import Quantizer

Leg = Literal["fwd", "dlhs", "drhs"]
Implementation = Literal["reference", "bfloat16", "xla"] | None
LEGS: tuple[Leg, ...] = ("fwd", "dlhs", "drhs")

# What the two operands of each leg are. The order is that of the fields of `Gemm`.
OPERANDS: dict[Leg, tuple[str, str]] = {
    "fwd": ("lhs", "rhs"),
    "dlhs": ("cotangent", "rhs"),
    "drhs": ("lhs", "cotangent"),
}


def _quantizer(what: str, value: Any) -> Any:
    """A name, format or type as a quantizer; anything else must be one already."""
    if isinstance(value, str | QType | Format):
        return Quantizer(value)
    return _refuse_plain(what, value, "Quantizer", "Quantizer(qtype), a QType or a name")


def _refuse_plain(what: str, value: Any, kind: str, remedy: str) -> Any:
    # Tree utilities rebuild these objects with placeholders inside; only values that a
    # person can have written are refused.
    if isinstance(value, str | int | float | dict | list | tuple):
        raise TypeError(
            f"{what} must be a {kind}, but {value!r} came. Write {remedy}; "
            "`qjax.recipes.get(name).default` is the policy of a named recipe."
        )
    return value


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Gemm:
    """How the two operands of one leg are quantized.

    Attributes:
      lhs: Quantizer of the first operand: `lhs` in `fwd` and `drhs`, the cotangent in
        `dlhs`. None leaves the operand as it is.
      rhs: Quantizer of the second operand: `rhs` in `fwd` and `dlhs`, the cotangent in
        `drhs`. None leaves the operand as it is.
    """

    lhs: Quantizer | None = None
    rhs: Quantizer | None = None

    def __post_init__(self):
        for side in ("lhs", "rhs"):
            quantizer = _quantizer(f"`Gemm.{side}`", getattr(self, side))
            object.__setattr__(self, side, quantizer)

    @property
    def is_identity(self) -> bool:
        """Whether neither operand is quantized."""
        return self.lhs is None and self.rhs is None

    @property
    def stochastic(self) -> bool:
        """Whether an operand is rounded with noise, so that a key is needed."""
        return any(q is not None and q.stochastic for q in (self.lhs, self.rhs))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Policy:
    """How a contraction and its two gradients are computed.

    Tiles are relative to a leg: they run along the axes that this leg sums over. The same
    quantizer can therefore serve all legs, and an operand that appears in two legs is
    quantized twice, each time from its high-precision values.

    Attributes:
      fwd: The forward contraction, `lhs . rhs`.
      dlhs: The gradient of `lhs`: cotangent . rhs.
      drhs: The gradient of `rhs`: lhs . cotangent. Where one operand is a weight, the
        layers of Flax make it the rhs, so this is the gradient of the weight.
      implementation: How products are carried out: "reference" (None) in float32;
        "bfloat16" on bfloat16 operands where these hold every value; "xla" on operands in
        their own dtype (int8, float8) where XLA has such products, else as "bfloat16". Only
        the rounding of the float32 sums differs. `contraction.execution` says more.
    """

    fwd: Gemm = Gemm()
    dlhs: Gemm = Gemm()
    drhs: Gemm = Gemm()
    implementation: Implementation = dataclasses.field(
        default=None, kw_only=True, metadata={"static": True}
    )

    def __post_init__(self):
        if self.implementation not in (None, "reference", "bfloat16", "xla"):
            raise ValueError(
                "`Policy.implementation` must be None, 'reference', 'bfloat16' or 'xla', but "
                f"{self.implementation!r} came. None is the reference, in float32."
            )
        for leg in LEGS:
            _refuse_plain(f"`Policy.{leg}`", getattr(self, leg), "Gemm", "Gemm(lhs=..., rhs=...)")

    @property
    def is_identity(self) -> bool:
        """Whether no operand of any leg is quantized."""
        return all(getattr(self, leg).is_identity for leg in LEGS)

    @property
    def stochastic(self) -> bool:
        """Whether any operand is rounded with noise, so that a key is needed."""
        return any(getattr(self, leg).stochastic for leg in LEGS)

    def quantizers(self) -> dict[tuple[Leg, str], Quantizer | None]:
        """The six quantizers, by leg and by what the operand is."""
        return {
            (leg, name): quantizer
            for leg in LEGS
            for name, quantizer in zip(
                OPERANDS[leg], (getattr(self, leg).lhs, getattr(self, leg).rhs), strict=True
            )
        }

    def flipped(self) -> "Policy":
        """The policy of the same contraction with its operands in the other order."""

        def flip(gemm: Gemm) -> Gemm:
            return dataclasses.replace(gemm, lhs=gemm.rhs, rhs=gemm.lhs)

        return dataclasses.replace(
            self, fwd=flip(self.fwd), dlhs=flip(self.drhs), drhs=flip(self.dlhs)
        )

    @classmethod
    def all(cls, quantizer: Quantizer, *, cotangent: Quantizer | None = None) -> "Policy":
        """The policy that quantizes all six operands alike.

        Args:
          quantizer: For `lhs` and `rhs` in the three legs.
          cotangent: For the incoming gradient in `dlhs` and `drhs`; `quantizer` where
            None.
        """
        grad = quantizer if cotangent is None else cotangent
        return cls(
            fwd=Gemm(quantizer, quantizer),
            dlhs=Gemm(grad, quantizer),
            drhs=Gemm(quantizer, grad),
        )
