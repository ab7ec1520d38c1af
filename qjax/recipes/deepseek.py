"""DeepSeek-V3's FP8 training: fine tiles for activations and gradients, blocks for weights.

E4M3 everywhere. Activations and incoming gradients have one scale per 128 elements along the
contracted axis, also when the weight's gradient contracts over tokens; weights have one per
block of 128 x 128, so that the forward and the backward product share their codes. Scales are
found online as the largest magnitude over 448 and kept in float32. Embeddings and logits stay
in high precision, and so do attention's own two products.

Source: DeepSeek-AI 2024, "DeepSeek-V3 Technical Report" (arXiv 2412.19437), section 3.3.
Left out: promotion of partial sums every 128 elements (sums are float32 here, which is
better), the cached E5M6 inputs, low-precision optimizer states and communication.
"""

from qjax import formats
from qjax.contraction import Gemm, Policy
from qjax.qtypes import FLOAT32_SCALE, QType
from qjax.quantizer import Quantizer
from qjax.recipes.registry import LOGITS, Method, register
from qjax.recipes.rules import Recipe, Rule
from qjax.tiling import Tile

METHOD = Method(
    title="DeepSeek-V3 FP8",
    paper="arXiv:2412.19437",
    cost="float32 scales, found from each tile as it comes",
)


@register("deepseek_fp8", METHOD)
def deepseek_fp8() -> Recipe:
    """E4M3 with 1x128 tiles for activations and gradients, 128x128 blocks for weights."""
    row = Quantizer(QType(formats.E4M3FN, Tile(128, 1), FLOAT32_SCALE))
    block = Quantizer(QType(formats.E4M3FN, Tile(128, 128), FLOAT32_SCALE))
    policy = Policy(fwd=Gemm(row, block), dlhs=Gemm(row, block), drhs=Gemm(row, row))
    return Recipe(
        (
            LOGITS,
            Rule(".*", Policy(), ops=("einsum",), name="attention", optional=True),
            Rule(".*", policy, name="deepseek_fp8"),
        ),
        name="deepseek_fp8",
    )
