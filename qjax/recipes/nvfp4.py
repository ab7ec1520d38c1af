"""NVFP4 training: four-bit floats whose scales are themselves quantized, with the parts it needs.

Elements are E2M1. Activations and gradients have an E4M3 scale per 16 elements along the
contracted axis, weights one per tile of 16 x 16, so that the forward and the backward product
share their codes; every tensor has a float32 scale besides. Incoming gradients are rounded
stochastically, everything else to nearest even. Both operands of the weight gradient go through
a random Hadamard transform of 16 along the tokens, with the same signs in all layers and steps.
Attention's own products, embeddings and logits stay in high precision, and so may the layers
that `recipe(keep=...)` names: the paper keeps under 15 % of the linear layers, mostly the last.
It claims a loss within 1.5 % of FP8 over ten trillion tokens.

Near the end of training a switch to high precision recovers most of what is lost, and a switch
of the forward products alone most of that: `train.Phases((recipe(), finish()), (step,))`.

Source: NVIDIA 2025, "Pretraining Large Language Models with NVFP4" (arXiv 2509.25149), sections 2
to 5 and appendix B. The signs are drawn here; Transformer Engine has a fixed vector of its own.
Results of products are float32 here, and bfloat16 where `Gemm.result` says so. Not here: the choice
of four over six as a block's largest value, which later releases added.
"""

import dataclasses
from collections.abc import Sequence

from qjax import formats, qtypes
from qjax.contraction import Gemm, Hadamard, Policy
from qjax.qtypes import QType
from qjax.quantizer import Quantizer
from qjax.recipes.registry import LOGITS, Method, register
from qjax.recipes.rules import Recipe, Rule
from qjax.rounding import Stochastic
from qjax.tiling import Tile

METHOD = Method(
    title="NVFP4",
    paper="arXiv:2509.25149",
    cost="a Hadamard transform of 16 for both operands of the weight gradient; random bits for "
    "gradients; a pass for the scale of each tensor",
)
SQUARE = QType(formats.E2M1FN, Tile(16, 16), qtypes.NVFP4.scale)


def policy() -> Policy:
    """NVFP4 in all six operands."""
    row, square = Quantizer(qtypes.NVFP4), Quantizer(SQUARE)
    noisy = Quantizer(qtypes.NVFP4, rounding=Stochastic())
    return Policy(
        fwd=Gemm(row, square),
        dlhs=Gemm(noisy, square),
        drhs=Gemm(row, noisy, transform=Hadamard(16, seed=0)),
    )


def recipe(keep: Sequence[str] = (), *, low: Policy | None = None) -> Recipe:
    """NVFP4 in every linear layer but those that `keep` names.

    Args:
      keep: Paths (regular expressions) of layers in high precision, such as `"block_11/.*"`.
      low: What the others compute in; `policy()` where None.
    """
    return Recipe(
        (
            LOGITS,
            Rule(".*", Policy(), ops=("einsum",), name="attention", optional=True),
            *(Rule(path, Policy(), name="kept") for path in keep),
            Rule(".*", policy() if low is None else low, name="nvfp4"),
        ),
        name="nvfp4",
    )


def finish(keep: Sequence[str] = ()) -> Recipe:
    """The end of a run: forward products in high precision, gradients as in `recipe`."""
    return recipe(keep, low=dataclasses.replace(policy(), fwd=Gemm()))


@register("nvfp4", METHOD)
def nvfp4() -> Recipe:
    """E2M1 with scales of scales, square tiles of weights, noisy gradients, Hadamard on tokens."""
    return recipe()
