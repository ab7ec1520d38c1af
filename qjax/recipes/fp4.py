"""The design space of FP4 training: one E2M1 recipe for every choice of scale, noise and transform.

All six operands of every layer are E2M1 in blocks along the contracted axis. A `Design` says what
the scales are stored in, whether the tensor has a scale of its own besides, what is rounded
stochastically, whether the operands of the weight gradient go through a random Hadamard transform,
and what gradient the forward quantization has; `space` gives all of them. The paper compares
thousands of such combinations and finds Hadamard transforms, tensor scales and stochastic rounding
of gradients to be worth their cost, straight-through gradients to be no worse than others, and
scales with five exponent and three mantissa bits (UE5M3) to be a good compromise: these are the
choices of `fp4`.

Source: Hu, Luschi and Balanca 2025, "Elucidating the Design Space of FP4 training" (arXiv
2509.17791), of which the abstract, the outline and public reviews were read; the gradients here are
derived. That UE5M3 reaches 114688 with one code for NaN is what libraries and hardware have; a
later paper (arXiv 2609.02846), as others quote it, reserves the top exponent and ends at 61440.
Left out: other optimizers, relaxed roundings and scales that differ between directions.
"""

import dataclasses
import itertools
from typing import Any, Literal, get_args

from qjax import formats, qtypes
from qjax.contraction import Gemm, Hadamard, Policy
from qjax.contraction.operands import ScaleGradient
from qjax.formats import Float
from qjax.qtypes import QType
from qjax.quantizer import Quantizer
from qjax.recipes.registry import LOGITS, Method, register
from qjax.recipes.rules import Recipe, Rule
from qjax.rounding import NearestEven, Stochastic
from qjax.tiling import Tile

METHOD = Method(
    title="FP4 design space",
    paper="arXiv:2509.17791",
    cost="random bits for gradients, a Hadamard transform of 16 for the weight gradient, a pass "
    "for the scale of each tensor",
)
UE5M3 = Float(5, 3, family="fn", signed=False)
SCALES = {
    "e8m0": formats.E8M0FNU,
    "e4m3": formats.E4M3FN,
    "ue5m3": UE5M3,
    "float32": formats.FLOAT32,
}
Scale = Literal["e8m0", "e4m3", "ue5m3", "float32"]
ScaleRule = Literal["rceil", "floor"]
Noise = Literal["none", "gradients", "gradients and scales"]
Gradient = Literal["through", "clipped", "scale"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Design:
    """One point of the space.

    Attributes:
      scale: What scales are stored in.
      rule: How an exponent alone is found (E8M0): the least whose block holds its largest element
        ("rceil"), or that of the largest element ("floor"), which may saturate, so that noise is
        biased.
      block: Elements that share a scale.
      tensor_scale: Whether the scales of a tensor have a float32 scale in common.
      noise: What is rounded stochastically: nothing, incoming gradients, or their scales too.
      hadamard: Whether the operands of the weight gradient are transformed.
      gradient: Of the forward quantization: the identity ("through"), zero where an element
        saturated ("clipped"), or with the term that reaches the largest element of a block
        through its scale ("scale").
    """

    scale: Scale = "ue5m3"
    rule: ScaleRule = "rceil"
    block: int = 16
    tensor_scale: bool = True
    noise: Noise = "gradients"
    hadamard: bool = True
    gradient: Gradient = "through"

    @property
    def excluded(self) -> str:
        """Why there is no such design; empty where there is."""
        if self.rule == "floor" and self.scale != "e8m0":
            return "a rule for exponents, but scales have digits"
        if self.rule == "floor" and self.tensor_scale:
            return "exponents below a float are rounded up"
        if self.tensor_scale and self.scale == "float32":
            return "float32 scales have all the range that a tensor's scale would give"
        if self.noise == "gradients and scales" and self.scale in ("e8m0", "float32"):
            return "exponents and float32 scales are not rounded stochastically"
        return ""

    @property
    def name(self) -> str:
        """The choices that are made, in words."""
        rule = f" {self.rule}" if self.scale == "e8m0" else ""
        noise = {"none": "nearest", "gradients": "noise"}.get(self.noise, "noise, noisy scales")
        parts = [f"{self.scale}{rule}", noise]
        parts += ["Hadamard"] if self.hadamard else []
        parts += ["tensor scale"] if self.tensor_scale else []
        return ", ".join(parts + [f"{self.gradient} gradient"] * (self.gradient != "through"))

    @property
    def qtype(self) -> QType:
        """The type of all six operands."""
        own = SCALES[self.scale]
        outer = qtypes.FLOAT32_SCALE if self.tensor_scale else None
        return QType(formats.E2M1FN, Tile(self.block, 1), QType(own, Tile(), outer))

    @property
    def policy(self) -> Policy:
        """What layers compute in.

        Raises:
          ValueError: If there is no such design.
        """
        if self.excluded:
            raise ValueError(f"`Design` was asked for {self.name!r}, but: {self.excluded}.")
        plain = Quantizer(self.qtype, scale=self._scale(noisy=False))
        rounding = NearestEven() if self.noise == "none" else Stochastic()
        grad = Quantizer(
            self.qtype, rounding=rounding, scale=self._scale(noisy=True) or plain.scale
        )
        transform = Hadamard(self.block, seed=0) if self.hadamard else None
        forward: Any = ScaleGradient(plain) if self.gradient == "scale" else plain
        return Policy(
            fwd=Gemm(forward, forward),
            dlhs=Gemm(grad, plain),
            drhs=Gemm(plain, grad, transform=transform),
            clip=self.gradient == "clipped",
        )

    @property
    def operations(self) -> float:
        """Extra operations per element, a mean over the six operands; a rough count.

        A random draw or a pass for a maximum counts as one, a Hadamard transform as additions.
        """
        drawn = 2 / 6 if self.noise != "none" else 0.0
        added = (self.block.bit_length() - 1) * 2 / 6 if self.hadamard else 0.0
        return drawn + added + self.tensor_scale + (2 / 6 if self.gradient != "through" else 0.0)

    def recipe(self) -> Recipe:
        """The recipe, logits and embeddings excepted."""
        return Recipe((LOGITS, Rule(".*", self.policy, name="fp4")), name="fp4")

    def _scale(self, *, noisy: bool) -> Any:
        if self.scale == "e8m0" and not self.tensor_scale:
            return self.rule
        if not noisy or self.noise != "gradients and scales":
            return None
        scale = self.qtype.scale
        assert scale is not None
        return Quantizer(scale, rounding=Stochastic())


def space(block: int = 16) -> tuple[tuple[Design, ...], dict[Design, str]]:
    """All designs with blocks of one size.

    Returns:
      The designs, and for each combination that is none the reason.
    """
    choices = [get_args(kind) for kind in (Scale, ScaleRule, Noise, Gradient)]
    flags = (False, True)
    every = [
        Design(scale=s, rule=r, noise=n, gradient=g, hadamard=h, tensor_scale=t, block=block)
        for s, r, n, g, h, t in itertools.product(*choices, flags, flags)
    ]
    excluded = {design: design.excluded for design in every if design.excluded}
    return tuple(design for design in every if design not in excluded), excluded


@register("fp4", METHOD)
def fp4() -> Recipe:
    """E2M1 in blocks of 16 with UE5M3 scales, tensor scales, noisy gradients and Hadamard."""
    return Design().recipe()
