"""Dynamic fixed point of 16 bits: integer training of convolutional networks.

All operands of all products are 16-bit integers with one power of two per tensor, that of the
largest magnitude; rounding is to nearest even. Products are summed in int32, in chains after which
the partial sum is converted to float32 and added there. Sixteen-bit operands can overflow int32
after two products; the paper shortens operands by a bit and allows some hundred products, which
real data do not overflow, and `policy` takes either: without `chain` it is the longest that
cannot overflow. First and last layers are not exempt. Claimed: float32 accuracy on ImageNet
without a change of hyper-parameters.

Source: Das et al. 2018, "Mixed Precision Training of Convolutional Neural Networks using Integer
Operations" (arXiv 1802.00930). Read: the abstract, and LIBXSMM, a library by some of the authors,
whose conversion has the exponent, the rounding to nearest and the shift by a bit that are here
(but lets the largest magnitude wrap where it rounds to 2**15; it saturates here). The rule of
chains is recalled and checked for consistency; tables were not seen. Left out: the
conversion of results back to 16 bits by the number of leading zeros, which the next product
does here when it reads them, and the use of an earlier layer's exponent in place of its own.
"""

from qjax import formats
from qjax.contraction import Gemm, IntegerAccumulator, Policy
from qjax.formats import Int
from qjax.qtypes import QType
from qjax.quantizer import Quantizer
from qjax.recipes.registry import Method, register
from qjax.recipes.rules import Recipe, Rule
from qjax.tiling import Tile

METHOD = Method(
    title="DFP16",
    paper="arXiv:1802.00930",
    cost="a maximum per tensor; partial sums converted to float32 after every chain",
)


def policy(bits: int = 16, chain: int | None = None) -> Policy:
    """Dynamic fixed point in all six operands.

    Args:
      bits: Of an integer, sign included, 2 to 16; fewer than 16 leave head-room in the sum.
      chain: Products that are summed in int32 before they go to float32; where it is too long
        the sum wraps (`contraction.overflows` says where). None: as many as cannot overflow.
    """
    integers = Quantizer(QType(Int(bits), Tile(), QType(formats.E8M0FNU)))
    safe = IntegerAccumulator(32).safe_length(Int(bits), Int(bits))
    accumulator = IntegerAccumulator(32, safe if chain is None else chain, "wrap")
    gemm = Gemm(integers, integers, accumulator=accumulator)
    return Policy(gemm, gemm, gemm)


@register("dfp16", METHOD)
def dfp16() -> Recipe:
    """Sixteen bits, chains that cannot overflow."""
    return Recipe((Rule(".*", policy(), name="dfp16"),), name="dfp16")
