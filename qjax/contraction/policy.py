"""What one contraction computes in: a quantizer for each operand of its three legs.

A contraction `out = lhs . rhs` has three legs. `fwd` computes `out`; the backward pass
computes `dlhs`, the gradient of `lhs`, from the cotangent and `rhs`; and `drhs`, the
gradient of `rhs`, from `lhs` and the cotangent. (Elsewhere these are called fprop, dgrad
and wgrad.) Each leg has two operands, so six choices are made here, and how each leg
multiplies and sums. This file only holds the choices; `bilinear` carries them out.
"""

import dataclasses
from typing import Any, Literal

import jax

from qjax.contraction.accumulators import Accumulator
from qjax.contraction.axes import LEGS, Leg
from qjax.contraction.choosing import Chosen
from qjax.contraction.multipliers import Multiplier
from qjax.contraction.operands import Operand
from qjax.contraction.sampling import Sampling
from qjax.contraction.splitting import BitSplit
from qjax.contraction.transforms import Transform
from qjax.formats import Format
from qjax.qtypes import QType
from qjax.quantizer import Quantizer

Implementation = Literal["reference", "bfloat16", "xla", "pallas", "pallas_interpreted"] | None
IMPLEMENTATIONS = (None, "reference", "bfloat16", "xla", "pallas", "pallas_interpreted")
Residuals = Literal["float", "codes", "requantize"] | None

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


def _refuse_trained(leg: Leg, gemm: Any) -> None:
    for side in ("lhs", "rhs"):
        if isinstance(getattr(gemm, side, None), Operand):
            raise TypeError(
                f"`Policy.{leg}.{side}` must be a Quantizer, but the trained operand "
                f"{getattr(gemm, side)!r} came. Trained operands stand in `Policy.fwd`; the other "
                "legs see what they give."
            )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Gemm:
    """How the two operands of one leg are quantized, multiplied and summed.

    Attributes:
      lhs: Quantizer of the first operand: `lhs` in `fwd` and `drhs`, the cotangent in
        `dlhs`. None leaves the operand as it is. In `fwd` it may be a trained operand
        (`contraction.operands`), whose values all legs see.
      rhs: Quantizer of the second operand: `rhs` in `fwd` and `dlhs`, the cotangent in
        `drhs`. None leaves the operand as it is.
      transform: What both operands go through before they are quantized: a map along the
        contracted axes that cancels in the product.
      accumulator: What the products are summed in; float32 where None.
      multiplier: What multiplies two numbers; the exact product where None.
      sampling: Which terms of the sum, or rows of the result, are drawn; all where None.
      result: Quantizer of the result, whose tiles run along its last axis; the result is rounded
        to its dtype alone where None. The gradient of a result passes through as it is.
    """

    lhs: Quantizer | BitSplit | Chosen | Operand | None = None
    rhs: Quantizer | BitSplit | Chosen | Operand | None = None
    transform: Transform | None = dataclasses.field(default=None, kw_only=True)
    accumulator: Accumulator | None = dataclasses.field(default=None, kw_only=True)
    multiplier: Multiplier | None = dataclasses.field(default=None, kw_only=True)
    sampling: Sampling | None = dataclasses.field(default=None, kw_only=True)
    result: Quantizer | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self):
        for name in ("lhs", "rhs", "result"):
            quantizer = _quantizer(f"`Gemm.{name}`", getattr(self, name))
            object.__setattr__(self, name, quantizer)
        kept = isinstance(self.result, Quantizer) and self.result.calibration.stateful
        if kept or isinstance(self.result, BitSplit | Chosen | Operand):
            raise TypeError(
                "`Gemm.result` must be a Quantizer that remembers nothing, but "
                f"{self.result!r} came. Give another calibration, or round where it is read."
            )
        for name, kind, example in (
            ("transform", "Transform", "qjax.contraction.Hadamard(32)"),
            ("accumulator", "Accumulator", "qjax.contraction.FloatAccumulator('bfloat16')"),
            ("multiplier", "Multiplier", "qjax.contraction.LMul()"),
            ("sampling", "Sampling", "qjax.contraction.LeverageSampling()"),
        ):
            _refuse_plain(f"`Gemm.{name}`", getattr(self, name), kind, example)

    @property
    def is_identity(self) -> bool:
        """Whether this leg is the plain product of its operands."""
        return all(getattr(self, field.name) is None for field in dataclasses.fields(self))

    @property
    def emulated(self) -> bool:
        """Whether products or sums are other than those of float32 arithmetic."""
        return self.accumulator is not None or self.multiplier is not None

    @property
    def stochastic(self) -> bool:
        """Whether something is drawn at random, so that a key is needed."""
        drawn, rounded = self.sampling is not None, (self.lhs, self.rhs, self.result)
        return drawn or any(q is not None and q.stochastic for q in rounded)

    def flipped(self) -> "Gemm":
        """The same leg with its operands in the other order."""
        parts = {
            name: None if part is None else part.flipped()
            for name in ("transform", "multiplier", "sampling")
            for part in (getattr(self, name),)
        }
        return dataclasses.replace(self, lhs=self.rhs, rhs=self.lhs, **parts)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Policy:
    """How a contraction and its two gradients are computed.

    Tiles are relative to a leg: they run along the axes that this leg sums over. The same
    quantizer can therefore serve all legs, and an operand that appears in two legs is
    quantized twice, each time from its high-precision values (`residuals` says otherwise).

    Attributes:
      fwd: The forward contraction, `lhs . rhs`.
      dlhs: The gradient of `lhs`: cotangent . rhs.
      drhs: The gradient of `rhs`: lhs . cotangent. Where one operand is a weight, the
        layers of Flax make it the rhs, so this is the gradient of the weight.
      implementation: How products are carried out: "reference" in float32; "bfloat16" on
        bfloat16 operands where these hold every value; "xla" on operands in their own dtype
        (int8, int4, float8, MX and NVFP4 blocks) where the device has such products, else as
        "bfloat16"; "pallas" by kernels that quantize in one pass or decode four-bit weights
        inside the product, on a GPU or TPU ("pallas_interpreted": step by step, anywhere, for
        tests); None chooses int8, bfloat16 or the reference by types and sizes. Only the
        rounding of the float32 sums differs. `contraction.plans` says more.
      residuals: What the backward pass is given of the operands of `fwd`. "float" (None): the
        operands themselves. "codes": their codes, which `dlhs` and `drhs` decode and use as
        they are. "requantize": their codes, which are decoded and then quantized again as
        `dlhs` and `drhs` say. Codes are of what `fwd` multiplied, its transform included.
      clip: Whether the gradient of an element that `fwd` saturated is zero. Otherwise it is
        passed on as if nothing had been rounded. An element that the sparsity of a type in
        `fwd` does not keep has no gradient in either case.
    """

    fwd: Gemm = Gemm()
    dlhs: Gemm = Gemm()
    drhs: Gemm = Gemm()
    implementation: Implementation = dataclasses.field(
        default=None, kw_only=True, metadata={"static": True}
    )
    residuals: Residuals = dataclasses.field(default=None, kw_only=True, metadata={"static": True})
    clip: bool = dataclasses.field(default=False, kw_only=True, metadata={"static": True})

    def __post_init__(self):
        if self.implementation not in IMPLEMENTATIONS:
            raise ValueError(
                f"`Policy.implementation` must be one of {IMPLEMENTATIONS}, but "
                f"{self.implementation!r} came. None chooses; the report says what."
            )
        if self.residuals not in (None, "float", "codes", "requantize"):
            raise ValueError(
                "`Policy.residuals` must be None, 'float', 'codes' or 'requantize', but "
                f"{self.residuals!r} came. None keeps the operands as they are."
            )
        for leg in LEGS:
            gemm = getattr(self, leg)
            _refuse_plain(f"`Policy.{leg}`", gemm, "Gemm", "Gemm(lhs=..., rhs=...)")
            if leg != "fwd":
                _refuse_trained(leg, gemm)
        self._check_codes()

    def _check_codes(self) -> None:
        if not self.keeps_codes or not all(isinstance(getattr(self, x), Gemm) for x in LEGS):
            return
        for side in ("lhs", "rhs"):
            if isinstance(getattr(self.fwd, side), BitSplit):
                raise ValueError(
                    f"`Policy.residuals` is {self.residuals!r}, but `fwd.{side}` is a BitSplit, "
                    "which has two codes for each element. Give a Quantizer, or keep floats."
                )
        again = {"dlhs.rhs": self.dlhs.rhs, "drhs.lhs": self.drhs.lhs}
        for name, quantizer in again.items():
            side = name.split(".")[1]
            if self.residuals == "codes" and quantizer and getattr(self.fwd, side):
                raise ValueError(
                    f"`Policy.residuals` is 'codes', but `{name}` quantizes the codes of "
                    f"`fwd.{side}` again. Leave it out, or ask for 'requantize'."
                )

    @property
    def keeps_codes(self) -> bool:
        """Whether the backward pass is given codes."""
        return self.residuals in ("codes", "requantize")

    @property
    def is_identity(self) -> bool:
        """Whether all legs are plain products."""
        return all(getattr(self, leg).is_identity for leg in LEGS)

    @property
    def stochastic(self) -> bool:
        """Whether anything is drawn at random, so that a key is needed."""
        return any(getattr(self, leg).stochastic for leg in LEGS)

    def quantizers(self) -> dict[tuple[Leg, str], Any]:
        """What the six operands are quantized by, by leg and by what the operand is."""
        return {
            (leg, name): quantizer
            for leg in LEGS
            for name, quantizer in zip(
                OPERANDS[leg], (getattr(self, leg).lhs, getattr(self, leg).rhs), strict=True
            )
        }

    def flipped(self) -> "Policy":
        """The policy of the same contraction with its operands in the other order."""
        return dataclasses.replace(
            self, fwd=self.fwd.flipped(), dlhs=self.drhs.flipped(), drhs=self.dlhs.flipped()
        )

    @classmethod
    def all(
        cls,
        quantizer: Quantizer,
        *,
        cotangent: Quantizer | None = None,
        result: Quantizer | None = None,
    ) -> "Policy":
        """The policy that quantizes all six operands alike.

        Args:
          quantizer: For `lhs` and `rhs` in the three legs.
          cotangent: For the incoming gradient in `dlhs` and `drhs`; `quantizer` where
            None.
          result: For the results of the three legs; None leaves them as they are.
        """
        grad = quantizer if cotangent is None else cotangent
        return cls(
            fwd=Gemm(quantizer, quantizer, result=result),
            dlhs=Gemm(grad, quantizer, result=result),
            drhs=Gemm(quantizer, grad, result=result),
        )
