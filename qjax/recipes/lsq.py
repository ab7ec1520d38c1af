"""LSQ and LSQ+: weights and activations on integers times steps that are learned.

The step of every operand is a parameter. It receives the gradient of the rounding, scaled by the
number of elements, so that steps and weights learn at like rates. LSQ+ adds a learned offset to
the activations, for what is neither centred nor non-negative. Gradients stay in float32.

Sources: Esser et al. 2020, "Learned step size quantization" (arXiv 1902.08153); Bhalgat et al.
2020, "LSQ+" (arXiv 2004.09576). The formulas were compared with public code, not with the papers'
text, and LSQ's table of ResNets with another reader's notes. As published, steps are per tensor and
the first and the last layer have 8 bits; `first` is the path of the first. Activations are signed
here, which costs half of the levels after a ReLU: `policy(bits, signed=False)` is the published
choice there. Left out: the weight decay and learning rates of the papers, and LSQ+'s search of the
first step by squared error.
"""

import dataclasses

from qjax.contraction import Gemm, Policy
from qjax.contraction.operands import LSQ, LSQPlus
from qjax.recipes.registry import FIRST, LOGITS, Method, register
from qjax.recipes.rules import Recipe, Rule

METHOD = Method(title="LSQ", paper="arXiv:1902.08153", cost="a learned step per operand")
PLUS = Method(title="LSQ+", paper="arXiv:2004.09576", cost="a learned step and offset per operand")


def policy(bits: int, *, signed: bool = True, offset: bool = False) -> Policy:
    """Learned steps for the two operands of the forward product.

    Args:
      bits: Of both.
      signed: Whether activations reach below zero.
      offset: Whether activations have a learned offset.
    """
    activations = LSQPlus if offset else LSQ
    return Policy(fwd=Gemm(activations(bits=bits, signed=signed), LSQ(bits=bits)))


def recipe(
    name: str, bits: int, *, signed: bool = True, offset: bool = False, first: str = FIRST
) -> Recipe:
    """The recipe of `policy`, with 8 bits in the first and the last layer."""
    wide, narrow = (policy(b, signed=s, offset=offset) for b, s in ((8, True), (bits, signed)))
    ends = (
        Rule(first, wide, name="first layer", optional=True),
        dataclasses.replace(LOGITS, policy=wide, name="last layer"),
    )
    return Recipe((*ends, Rule(".*", narrow, name=name)), name=name)


@register("lsq2", METHOD)
def lsq2() -> Recipe:
    """Two bits."""
    return recipe("lsq2", 2)


@register("lsq3", METHOD)
def lsq3() -> Recipe:
    """Three bits."""
    return recipe("lsq3", 3)


@register("lsq4", METHOD)
def lsq4() -> Recipe:
    """Four bits."""
    return recipe("lsq4", 4)


@register("lsq_plus4", PLUS)
def lsq_plus4() -> Recipe:
    """Four bits, activations with an offset."""
    return recipe("lsq_plus4", 4, offset=True)
