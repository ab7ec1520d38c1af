"""Ternary language models: BitNet b1.58 and TriLM.

A weight matrix is signs times one number, its mean magnitude; weights smaller than half of it
are zero. Gradients reach the weights as if nothing had been rounded, and the gradient of the
activations is taken through the ternary weights. BitNet b1.58 also rounds activations to eight
bits with one scale per token; TriLM leaves them as they are. Embeddings and logits stay in high
precision. Spectra claims that a TriLM of 3.9 billion parameters matches a float model of its size
on downstream tasks, with a tenth of the bits; what it loses shrinks as models grow.

Training is in two stages: the peak of the learning rate falls at half of the run, and weight
decay ends at two thirds (TriLM) or at half (b1.58): `train.two_stage_adamw`.

Sources: Ma et al. 2024, "The Era of 1-bit LLMs" (arXiv 2402.17764); Kaushal et al. 2024, "Spectra"
(arXiv 2407.12327). Their mean is guarded by 1e-5, added or as a lower bound; a matrix of zeros
gives zeros here. Left out: the normalizations before every quantized layer, which are the
model's, and scales per shard of a matrix.
"""

from qjax import calibration, formats, qtypes
from qjax.contraction import Gemm, Policy
from qjax.contraction.operands import Estimated
from qjax.qtypes import QType
from qjax.quantizer import Quantizer
from qjax.recipes.registry import LOGITS, Method, register
from qjax.recipes.rules import Recipe, Rule
from qjax.tiling import Tile

METHOD = Method(
    title="BitNet b1.58 and TriLM",
    paper="arXiv:2402.17764, arXiv:2407.12327",
    cost="a mean per weight matrix; float32 master weights; two stages of learning rate and decay",
)
# Whole numbers round half to even: a weight of half the mean magnitude becomes zero.
TERNARY = QType(formats.Int(2), Tile(), qtypes.FLOAT32_SCALE)
MEAN = calibration.Moments(second=0.0, first=1.0)


def _recipe(name: str, activations: Estimated | None) -> Recipe:
    weights = Estimated(Quantizer(TERNARY, calibration=MEAN))
    policy = Policy(fwd=Gemm(activations, weights))
    return Recipe(
        (
            LOGITS,
            Rule(".*", Policy(), ops=("einsum",), name="attention", optional=True),
            Rule(".*", policy, name=name),
        ),
        name=name,
    )


@register("bitnet_b158", METHOD)
def bitnet_b158() -> Recipe:
    """Ternary weights, activations in eight bits with a scale per token."""
    return _recipe("bitnet_b158", Estimated(Quantizer(qtypes.INT8_CHANNEL)))


@register("trilm", METHOD)
def trilm() -> Recipe:
    """Ternary weights; activations as they are."""
    return _recipe("trilm", None)
