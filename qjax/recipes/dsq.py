"""DSQ: evenly spaced values whose derivatives are those of a soft staircase.

Between two values a scaled hyperbolic tangent rises from one to the other. Forward it is rounded;
backward its derivatives reach the operand, both ends of its range and the softness of the
staircase, all of which are learned. Gradients stay in float32.

Source: Gong et al. 2019, "Differentiable soft quantization" (arXiv 1908.05033); the formulas were
compared with public code, not with the paper's text. As published, the first and the last layer
stay in float32. Left out: the paper's running ranges of activations; ends
start at those of the first batch and are learned from there.
"""

from qjax.contraction import Gemm, Policy
from qjax.contraction.operands import SoftLevels
from qjax.recipes.registry import FIRST, LOGITS, Method, register
from qjax.recipes.rules import Recipe, Rule

METHOD = Method(
    title="DSQ", paper="arXiv:1908.05033", cost="learned ends and softness, a hyperbolic tangent"
)


def policy(bits: int) -> Policy:
    """Soft levels for the two operands of the forward product."""
    levels = SoftLevels(bits=bits)
    return Policy(fwd=Gemm(levels, levels))


def recipe(name: str, bits: int, exempt: str = FIRST) -> Recipe:
    """The recipe of `policy`; the last layer and those that `exempt` matches stay in float32."""
    ends = (LOGITS, Rule(exempt, Policy(), name="exempt", optional=True))
    return Recipe((*ends, Rule(".*", policy(bits), name=name)), name=name)


@register("dsq2", METHOD)
def dsq2() -> Recipe:
    """Two bits."""
    return recipe("dsq2", 2)


@register("dsq4", METHOD)
def dsq4() -> Recipe:
    """Four bits."""
    return recipe("dsq4", 4)
