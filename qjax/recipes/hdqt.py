"""Hadamard-domain training with four-bit integers and eight-bit accumulators (HDQT).

Forward, operands are integers of four bits with one scale per tensor, a little below that of the
largest magnitude, rounded to nearest even; products are summed 32 at a time, each sum clipped to
eight bits, and the sums of tiles added wide. Backward, what the forward pass stored is decoded, it
and the gradient go through a Hadamard transform along the axis that their product sums over (the
output features for the gradient of activations, the samples for that of weights), both are
quantized there, the gradient and the activations stochastically, and their sum is clipped to
eight bits once. Elements that the forward pass clipped have no gradient. No layer is exempt, the
classifier included. Claimed for class-incremental learning: under 0.5 % of accuracy lost on
activity recognition and 3 % on CIFAR-100; the authors' own curves end 0.1 and 6 % below float
(iCaRL on DSADS and CIFAR-100).

Source: Schiemer et al. 2023, "Hadamard Domain Training with Integers for Class Incremental
Quantized Learning" (arXiv 2310.03675, PMLR 274). Read: the abstracts, reviews, and the released
code with the data of its figures; the paper's text and tables were not seen. Where the code departs
from its description the description is followed: its accumulators are clipped only when a second
flag is given, and its mask compares values with the integer limit. There, a tensor without negative
values becomes unsigned integers by itself; here that is `policy(signed=False)`. Left out: weights
kept in eight bits. Of a convolution the transform runs over features and over images, not over the
positions of windows.
"""

import dataclasses

from qjax import formats
from qjax.calibration import Search
from qjax.contraction import Gemm, Hadamard, IntegerAccumulator, Policy
from qjax.formats import Int
from qjax.qtypes import QType
from qjax.quantizer import Quantizer
from qjax.recipes.registry import Method, register
from qjax.recipes.rules import Recipe, Rule
from qjax.rounding import Stochastic
from qjax.tiling import Tile

METHOD = Method(
    title="HDQT",
    paper="arXiv:2310.03675",
    cost="Hadamard transforms of both operands of both gradients; random bits; codes kept instead "
    "of floats",
)


def policy(
    bits: int = 4,
    accumulator: int = 8,
    tile: int | None = 32,
    *,
    share: float = 0.975,
    signed: bool = True,
) -> Policy:
    """HDQT in all six operands.

    Args:
      bits: Of the operands' integers.
      accumulator: Bits of the sums.
      tile: Products in a tile of the forward sum; None clips only the whole sum.
      share: Of the largest magnitude that the forward operands reach before they clip.
      signed: Whether activations reach below zero; without, those after a ReLU fill all levels.
    """
    qtype = QType(Int(bits), Tile(), QType(formats.FLOAT32))
    clipped = Quantizer(qtype, calibration=Search((share,)))
    inputs = Quantizer(
        dataclasses.replace(qtype, format=Int(bits, signed=signed)), calibration=Search((share,))
    )
    nearest, noisy = Quantizer(qtype), Quantizer(qtype, rounding=Stochastic())
    tiles, whole = (IntegerAccumulator(accumulator, n, at_end=True) for n in (tile, None))
    # Without a factor in the first operand and 1/p in the second, integers meet integers.
    domain = Hadamard(orthonormal=False)
    return Policy(
        fwd=Gemm(inputs, clipped, accumulator=tiles),
        dlhs=Gemm(noisy, nearest, transform=domain, accumulator=whole),
        drhs=Gemm(noisy, noisy, transform=domain, accumulator=whole),
        residuals="requantize",
        clip=True,
    )


@register("hdqt", METHOD)
def hdqt() -> Recipe:
    """Four bits in all products, sums of eight bits over tiles of 32."""
    return Recipe((Rule(".*", policy(), name="hdqt"),), name="hdqt", version=2)
