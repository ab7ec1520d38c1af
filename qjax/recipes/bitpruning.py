"""BitPruning: every operand learns how many bits it needs, and pays for them.

Widths are parameters that need not be whole: between two widths the values of both are mixed, and
the derivative is their difference. A price on bits joins the loss. When the widths have settled
they are rounded up and frozen, and the rest of training adapts to them:

    settle = train.freeze_after(steps, bitpruning.WIDTHS, final=jnp.ceil)
    optimizer = optax.chain(optax.adam(rate), settle)

Source: Nikolic et al. 2020, "BitPruning" (arXiv 2002.03090). Only the abstract was read; the
formulas are from memory, and the value of the price is ours. All layers learn, the last included.
Ranges are those of the tensor at hand. The price here is on the mean of the operands' widths, to
be divided by their number, or, with `by_size`, on every bit of every element, to be divided by the
number of elements. Left out: widths of groups smaller than a tensor.
"""

from qjax.contraction import Gemm, Policy
from qjax.contraction.operands import LearnedBits
from qjax.recipes.registry import Method, register
from qjax.recipes.rules import Recipe, Rule

METHOD = Method(
    title="BitPruning",
    paper="arXiv:2002.03090",
    cost="two casts per operand; widths from 1 to 16 bits are learned",
)
WIDTHS = r"(.*/)?quant/.*bits"
"""Paths of the widths among a model's parameters."""


def policy(bits: float = 8.0, price: float = 0.01, *, by_size: bool = False) -> Policy:
    """A learned width for each of the two operands of the forward product.

    Args:
      bits: Before training.
      price: Of one bit of an operand, or of one bit of an element where `by_size`.
      by_size: Whether large operands pay more.
    """
    learned = LearnedBits(bits=bits, price=price, by_size=by_size)
    return Policy(fwd=Gemm(learned, learned))


@register("bitpruning", METHOD)
def bitpruning() -> Recipe:
    """From 8 bits on, a price of 0.01 per operand and bit."""
    return Recipe((Rule(".*", policy(), name="bitpruning"),), name="bitpruning")
