"""L-Mul: every product of two numbers by one integer addition of their bit patterns.

Both operands of a forward product are truncated to a few mantissa bits, multiplied by adding
their patterns and a constant, and summed in float32; gradients multiply the operands exactly.
The paper puts it into the two products of attention (`attention`), mostly with 6 bits, and once
into all products with 3; it claims that 4 bits are about as precise as products of E4M3 and 3
better than those of E5M2, at a small share of the energy.

Source: Luo and Sun 2024, "Addition is All You Need for Energy-efficient Language Models" (arXiv
2410.00907). The formula is confirmed by public implementations; the paper's tables of errors
could not be verified and are enumerated by the tests instead. The formula as printed leaves out
the carry of the mantissa sum into the exponent, without which the claims do not hold; the integer
addition, which has it, is followed. That gradients are exact is this file's choice.
"""

from qjax.contraction import Gemm, LMul, Policy
from qjax.formats import Float
from qjax.quantizer import Quantizer
from qjax.recipes.registry import LOGITS, Method, register
from qjax.recipes.rules import Recipe, Rule
from qjax.rounding import TowardZero

METHOD = Method(
    title="L-Mul",
    paper="arXiv:2410.00907",
    cost="none on hardware that adds patterns; emulated number by number here, many times slower",
)


def policy(mantissa: int = 4) -> Policy:
    """Forward products by L-Mul of operands with `mantissa` bits of mantissa, 1 to 23."""
    format = Float(8, mantissa)
    truncated = Quantizer(format, rounding=TowardZero())
    return Policy(Gemm(truncated, truncated, multiplier=LMul(format)))


def attention(mantissa: int = 4) -> Recipe:
    """L-Mul in attention's own two products alone, as the layers of Flax name them."""
    return Recipe(
        (Rule(r"(.*/)?(qk|av)", policy(mantissa), name="attention"),), name="lmul_attention"
    )


@register("lmul", METHOD)
def lmul() -> Recipe:
    """Four bits of mantissa in all products but logits."""
    return Recipe((LOGITS, Rule(".*", policy(), name="lmul")), name="lmul")
