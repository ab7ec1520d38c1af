"""Training transformers with four-bit integers: Hadamard quantization and leverage sampling.

Forward, both operands go through a block Hadamard transform of the contracted axis, which spreads
outlying activations, and are rounded to four-bit integers with learned steps; the transforms
cancel in the product. Both gradients multiply these integers. The incoming gradient is the sum
of two four-bit parts, its high bits to nearest and the rest stochastically; of the twice as many
rows that this makes, as many as before are drawn with probabilities in proportion to their norms
(times those of the activations' rows in the gradient of the weights), so that each product costs
what one of four bits does and its mean is the whole one. Steps and operands that clip have the
gradients of learned step sizes, in the transformed domain. Logits and embeddings stay in high
precision. Claimed: 35 % faster training at most, and about two points below 16 bits on GLUE.

In training from scratch the steps are not learned at first but set at every call: `stages` has
both recipes. The second starts from steps of the weights as they are then, and these are found anew
once more later: `qjax.linen.refound`, or `init` of a function, or `example=` of an nnx module.

Source: Xi et al. 2023, "Training Transformers with 4-bit Integers" (arXiv 2306.11987), read in
full. The released code clips to -8..7 and in the gradient of the weights keeps every row that is
not zero; the paper is followed: -7..7, and rows are drawn. Left out: the choice of the block by
the error of the first batch, which is an argument here.
"""

from qjax import formats
from qjax.contraction import BitSplit, Gemm, Hadamard, LeverageSampling, Policy
from qjax.contraction.operands import LSQ
from qjax.formats import Int
from qjax.qtypes import QType
from qjax.quantizer import Quantizer
from qjax.recipes.registry import LOGITS, Method, register
from qjax.recipes.rules import Recipe, Rule
from qjax.rounding import Stochastic
from qjax.tiling import Tile

METHOD = Method(
    title="INT4 training (HQ-LSS)",
    paper="arXiv:2306.11987",
    cost="Hadamard transforms of both forward operands; norms of rows and random bits of gradients",
)


def policy(bits: int = 4, block: int = 32, *, learned: bool = True, share: float = 1.0) -> Policy:
    """Hadamard quantization forward, bit splitting and leverage sampling backward.

    Args:
      bits: Of all integers.
      block: Elements of a Hadamard block, a power of two.
      learned: Whether steps are learned; otherwise they follow the mean magnitude of every call.
      share: Expected number of drawn rows relative to those of the gradient.
    """
    step = LSQ(bits=bits, narrow=True, learned=learned)
    qtype = QType(Int(bits), Tile(), QType(formats.FLOAT32))
    split = BitSplit(Quantizer(qtype), Quantizer(qtype, rounding=Stochastic()))
    return Policy(
        fwd=Gemm(step, step, transform=Hadamard(block)),
        dlhs=Gemm(split, None, sampling=LeverageSampling("lhs", share)),
        drhs=Gemm(None, split, sampling=LeverageSampling("contracted", share)),
    )


def stages(bits: int = 4, block: int = 32) -> tuple[Recipe, Recipe]:
    """The recipes of the cold start, whose steps follow the values, and of what comes after."""
    return _recipe(policy(bits, block, learned=False)), _recipe(policy(bits, block))


def _recipe(low: Policy) -> Recipe:
    name = "int4_hq_lss"
    return Recipe((LOGITS, Rule(".*", low, name=name)), name=name)


@register("int4_hq_lss", METHOD)
def int4_hq_lss() -> Recipe:
    """Four bits in all products but logits, Hadamard blocks of 32, learned steps."""
    return _recipe(policy())
