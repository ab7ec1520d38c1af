"""FP8 training with one scale per tensor, found from the tensor itself (current scaling).

Activations and weights in E4M3 (largest value 448), incoming gradients in E5M2 (57344): the
HYBRID convention of NVIDIA's Transformer Engine. The scale of a tensor is its largest
magnitude over the format's largest value, in float32; rounding is to nearest even.
Scales from a history of earlier steps are those of `fp8_delayed`.
"""

from qjax import qtypes
from qjax.quantizer import Quantizer
from qjax.recipes.registry import Method, register, six_operands
from qjax.recipes.rules import Recipe

METHOD = Method(
    title="FP8, current scaling",
    paper="Transformer Engine; formats: arXiv:2209.05433",
    cost="a pass over each tensor for its scale",
)


@register("fp8", METHOD)
def fp8() -> Recipe:
    """E4M3 forward, E5M2 for incoming gradients, one float32 scale per tensor."""
    return six_operands(
        "fp8", Quantizer(qtypes.E4M3FN_TENSOR), cotangent=Quantizer(qtypes.E5M2_TENSOR)
    )
