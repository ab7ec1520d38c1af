"""FP8 training with one scale per tensor from a history of earlier steps (delayed scaling).

The HYBRID convention of NVIDIA's Transformer Engine as in `fp8`, but the scale of a tensor
comes from the largest magnitude of the last 1024 steps, so that a cast needs no pass over its
tensor before it; what is larger than the history saturates. Operands are rounded once: the
gradients of weights and activations are computed from the same rounded values. Here the first
step is bounded by its own tensors, where Transformer Engine starts with the scale 1, and the
margin is 0. A first tensor of zeros leaves the history empty, so the next one is a first step.

Histories are variables of the model: move them on with `mutable=["quant"]` in linen; those of
incoming gradients come back as gradients of their own (`train.memory`).
"""

from qjax import calibration, qtypes
from qjax.contraction import Gemm, Policy
from qjax.quantizer import Quantizer
from qjax.recipes.registry import LOGITS, Method, register
from qjax.recipes.rules import Recipe, Rule

METHOD = Method(
    title="FP8, delayed scaling",
    paper="Transformer Engine; formats: arXiv:2209.05433",
    cost="a state of 1024 numbers per operand",
)


def policy(length: int = 1024) -> Policy:
    """E4M3 forward, E5M2 for incoming gradients, scales from the last `length` steps."""
    history = calibration.Delayed(length=length)
    forward = Quantizer(qtypes.E4M3FN_TENSOR, calibration=history)
    cotangent = Quantizer(qtypes.E5M2_TENSOR, calibration=history)
    return Policy(
        fwd=Gemm(forward, forward), dlhs=Gemm(cotangent, None), drhs=Gemm(None, cotangent)
    )


@register("fp8_delayed", METHOD)
def fp8_delayed() -> Recipe:
    """The published convention, with the published length of the history."""
    return Recipe((LOGITS, Rule(".*", policy(), name="fp8_delayed")), name="fp8_delayed")
