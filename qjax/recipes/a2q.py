"""A2Q and A2Q+: weights that cannot make a narrow accumulator overflow, whatever the input.

A sum of products is largest where every input is as large as it can be and has the sign of its
weight. So the sum of magnitudes of a channel's integer weights bounds it, and that sum is a
parameter here, learned below the limit of the accumulator; rounding is toward zero, which cannot
raise it. A2Q+ takes the mean of each channel away first: positive and negative weights then bound
each other, and the limit doubles. Activations have learned steps. Gradients stay in float32.

Sources: Colbert et al. 2023, "A2Q" (arXiv 2308.13504), and 2024, "A2Q+" (arXiv 2401.10432). The
formulas are those of the authors' library (Brevitas); the papers' text was not read. The penalty
is the papers' in the logarithmic domain, where the library's example has it in the linear one.
The limit holds for signed activations here: `policy(signed=False)` gives that for what follows a
ReLU. As published, the last layer has 8 bits and no limit. Left out: the start from projected
float weights (`gradients.onto_l1_ball` is the projection) and bias correction.
"""

import dataclasses

from qjax.contraction import Gemm, Policy
from qjax.contraction.operands import LSQ, L1Bounded
from qjax.recipes.registry import LOGITS, Method, register
from qjax.recipes.rules import Recipe, Rule

COST = "a learned step and sum of magnitudes per channel, a penalty"
METHOD = Method(title="A2Q", paper="arXiv:2308.13504", cost=COST)
PLUS = Method(title="A2Q+", paper="arXiv:2401.10432", cost=f"{COST}; means of channels")
PRICE = 1e-3


def policy(
    accumulator: int, *, bits: int = 4, centred: bool = False, signed: bool = True
) -> Policy:
    """Weights bounded for an accumulator, activations with a learned step.

    Args:
      accumulator: Bits of the accumulator.
      bits: Of weights and activations.
      centred: Whether means are taken away (A2Q+).
      signed: Whether activations reach below zero.
    """
    weights = L1Bounded(
        bits=bits,
        accumulator=accumulator,
        input_bits=bits,
        input_signed=signed,
        centred=centred,
        price=PRICE,
    )
    return Policy(fwd=Gemm(LSQ(bits=bits, signed=signed), weights))


def recipe(name: str, accumulator: int, **options: bool | int) -> Recipe:
    """The recipe of `policy`, with 8 bits and no limit in the last layer."""
    wide = Policy(fwd=Gemm(LSQ(bits=8), LSQ(bits=8, granularity="channel")))
    last = dataclasses.replace(LOGITS, policy=wide, name="last layer")
    narrow = policy(accumulator, **options)  # type: ignore[arg-type]
    return Recipe((last, Rule(".*", narrow, name=name)), name=name)


@register("a2q_p16", METHOD)
def a2q_p16() -> Recipe:
    """Four bits, accumulators of 16."""
    return recipe("a2q_p16", 16)


@register("a2q_p12", METHOD)
def a2q_p12() -> Recipe:
    """Four bits, accumulators of 12."""
    return recipe("a2q_p12", 12)


@register("a2q_plus_p16", PLUS)
def a2q_plus_p16() -> Recipe:
    """Four bits, centred weights, accumulators of 16."""
    return recipe("a2q_plus_p16", 16, centred=True)


@register("a2q_plus_p12", PLUS)
def a2q_plus_p12() -> Recipe:
    """Four bits, centred weights, accumulators of 12."""
    return recipe("a2q_plus_p12", 12, centred=True)
