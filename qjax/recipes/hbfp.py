"""Hybrid block floating point: narrow mantissas, one shared exponent per 64 elements.

All three products of every layer take block floating-point operands of M bits, sign included,
and everything else stays in float32. The shared exponent is that of the block's largest
magnitude, rounded up, so that mantissas are fractions below one. Blocks run along the contracted
axis; weights may share exponents in square tiles instead. Operands are rounded stochastically in
the backward pass and to nearest in the forward pass. No layer is exempt, the last included.

Accuracy Booster is the same with 6 bits in the first and the last layer, and in every layer in
the last epoch; it claims that more than 99 % of the arithmetic then is in 4 bits, without loss
of accuracy (`booster`, `train.Piecewise` of its `stages`).

Sources: Drumond et al. 2018, "Training DNNs with Hybrid Block Floating Point" (arXiv
1804.01526): the released code was read, and the tables page by page in notes of another reader
(tiles of 24 x 24, weights kept in 16 bits); Harma et al. 2022, "Accuracy Booster" (arXiv
2211.10737): abstracts and the released code, not the text, so that its recommended block of 64
could not be verified. The code rounds stochastically in the forward pass too and reuses one
conversion for both directions; the paper's products are followed here. The state of record of the
weights, 16 bits of mantissa, is an optimizer's matter: `train.rounded_parameters`. How dense such
arithmetic is in hardware counts `qjax.cost`; what it does to the distribution of a tensor, layer by
layer and epoch by epoch, is `diagnostics.wasserstein`.
"""

import dataclasses
from typing import Any

from qjax import qtypes
from qjax.contraction import Gemm, Policy
from qjax.quantizer import Quantizer
from qjax.recipes.registry import FIRST, LOGITS, Method, register
from qjax.recipes.rules import Recipe, Rule
from qjax.rounding import Stochastic
from qjax.tiling import Tile

METHOD = Method(
    title="HBFP",
    paper="arXiv:1804.01526",
    cost="random bits for the operands of both gradients",
)


BOOSTER = Method(
    title="Accuracy Booster",
    paper="arXiv:2211.10737",
    cost="as HBFP; 6 bits in the first and last layer, and everywhere in the last epoch",
)


def policy(bits: Any, block: int = 64, tile: int | None = None) -> Policy:
    """Block floating point with mantissas of `bits` bits in all six operands.

    Args:
      bits: Of a mantissa, sign included; may be traced.
      block: Elements along the contracted axis that share an exponent.
      tile: Edge of the square tiles of the weights (of the second operand where it is one);
        None: blocks, as for the other operands.
    """
    qtype = qtypes.block_float(bits, block)
    square = qtype if tile is None else dataclasses.replace(qtype, tile=Tile(tile, tile))
    noisy = Quantizer(qtype, rounding=Stochastic())
    return Policy(
        fwd=Gemm(Quantizer(qtype), Quantizer(square)),
        dlhs=Gemm(noisy, Quantizer(square, rounding=Stochastic())),
        drhs=Gemm(noisy, noisy),
    )


def booster(
    bits: Any = 4, ends: Any = 6, *, block: int = 64, first: str = FIRST, last: str = LOGITS.path
) -> Recipe:
    """Accuracy Booster outside of the last epoch: `bits` bits, `ends` in the first and last layer.

    Args:
      bits: Bits of a mantissa.
      ends: The same in the first and last layer.
      block: Elements that share an exponent.
      first: Path of the first layer, a regular expression.
      last: Path of the last layer.
    """
    wide = policy(ends, block)
    return Recipe(
        (
            Rule(first, wide, name="first layer", optional=True),
            Rule(last, wide, name="last layer", optional=True),
            Rule(".*", policy(bits, block), name="accuracy_booster"),
        ),
        name="accuracy_booster",
    )


def stages(bits: Any = 4, ends: Any = 6, **options: Any) -> tuple[Recipe, Recipe]:
    """The recipes before and in the last epoch, which differ in numbers alone.

    `train.Piecewise(stages(), (n,))` is the schedule whose last epoch begins at step `n`.
    Arguments are those of `booster`.
    """
    return booster(bits, ends, **options), booster(ends, ends, **options)


def _recipe(bits: int) -> Recipe:
    name = f"hbfp{bits}"
    return Recipe((Rule(".*", policy(bits), name=name),), name=name, version=2)


@register("hbfp8", METHOD)
def hbfp8() -> Recipe:
    """Mantissas of 8 bits."""
    return _recipe(8)


@register("hbfp6", METHOD)
def hbfp6() -> Recipe:
    """Mantissas of 6 bits."""
    return _recipe(6)


@register("hbfp5", METHOD)
def hbfp5() -> Recipe:
    """Mantissas of 5 bits."""
    return _recipe(5)


@register("hbfp4", METHOD)
def hbfp4() -> Recipe:
    """Mantissas of 4 bits."""
    return _recipe(4)


@register("accuracy_booster", BOOSTER)
def accuracy_booster() -> Recipe:
    """Mantissas of 4 bits, 6 in the first and last layer; `stages` has the last epoch."""
    return booster()
