"""PACT and SAWB: activations clipped at a learned bound, weights at a statistical one.

Activations are clipped to [0, a] and spaced evenly; `a` is learned from what it clips and shrunk
by a penalty. Weights are clipped where two of their moments say that the error of clipping and of
rounding balance, and are rounded to signed integers. Gradients stay in float32.

Sources: Choi et al. 2018, "PACT" (arXiv 1805.06085); Choi et al. 2019, "Accurate and efficient
2-bit quantized neural networks" (MLSys), for SAWB. Formulas and coefficients are those of IBM's
code. Activations are meant to follow a ReLU: what is below zero is lost, so name layers that see
signed inputs in `exempt`. As published, the first and the last layer stay in float32. Left out:
PACT's weights by DoReFa's rule, which SAWB replaced, and PACT+, which is
`operands.Spaced(learned=("high",))`.
"""

from qjax import calibration
from qjax.contraction import Gemm, Policy
from qjax.contraction.operands import PACT, Estimated
from qjax.formats import FLOAT32, Int
from qjax.qtypes import QType
from qjax.quantizer import Quantizer
from qjax.recipes.registry import FIRST, LOGITS, Method, register
from qjax.recipes.rules import Recipe, Rule
from qjax.tiling import Tile

METHOD = Method(
    title="PACT and SAWB", paper="arXiv:1805.06085", cost="a learned bound; two moments of weights"
)
DECAY = 2e-4  # Of the squared bound: what the paper uses for weights.


def policy(bits: int, *, bound: float = 10.0, decay: float = DECAY) -> Policy:
    """A learned bound for activations, a statistical one for weights.

    Args:
      bits: Of both; 2, 3, 4, 5 or 8.
      bound: Of activations before training.
      decay: Factor of the penalty on the squared bound.
    """
    qtype = QType(Int(bits), Tile(), QType(FLOAT32))
    weights = Estimated(Quantizer(qtype, calibration=calibration.sawb(bits)))
    return Policy(fwd=Gemm(PACT(bits=bits, bound=bound, decay=decay), weights))


def recipe(name: str, bits: int, exempt: str = FIRST) -> Recipe:
    """The recipe of `policy`; the last layer and those that `exempt` matches stay in float32."""
    wide = Rule(exempt, Policy(), name="exempt", optional=True)
    return Recipe((LOGITS, wide, Rule(".*", policy(bits), name=name)), name=name)


@register("pact_sawb2", METHOD)
def pact_sawb2() -> Recipe:
    """Two bits."""
    return recipe("pact_sawb2", 2)


@register("pact_sawb4", METHOD)
def pact_sawb4() -> Recipe:
    """Four bits."""
    return recipe("pact_sawb4", 4)
