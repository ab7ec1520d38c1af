"""Shifted and squeezed FP8: E5M2 that needs no loss scale, whatever the range of a tensor.

Before it is rounded every operand of every product, forward and backward, goes through a power
and a factor of its own, which map the mean of its logarithms to 0 and its largest magnitude to
2**15; rounding is to nearest even, and the map is undone before the product, whose sums are
float32. So does what every product gives: layers' outputs, and the gradients of activations and
of weights. First and last layers are not exempt, and no loss is scaled; the paper claims accuracies
as in float32, where plain E5M2 fails or needs a loss scale tuned by hand.

Source: Cambier et al. 2020, "Shifted and Squeezed 8-bit Floating Point Format for Low-Precision
Training of Deep Neural Networks" (arXiv 2001.05674), read in full. A tensor of one magnitude has
no finite power; it is passed through the factor alone.
"""

from typing import Any

from qjax.contraction import Policy
from qjax.quantizer import ShiftSqueeze
from qjax.recipes.registry import Method, register
from qjax.recipes.rules import Recipe, Rule

METHOD = Method(
    title="S2FP8",
    paper="arXiv:2001.05674",
    cost="two numbers per tensor, a logarithm and a power per element",
)


@register("s2fp8", METHOD)
def s2fp8() -> Recipe:
    """E5M2 behind a power and a factor per tensor: operands and results of every product."""
    squeezed: Any = ShiftSqueeze()
    policy = Policy.all(squeezed, result=squeezed)
    return Recipe((Rule(".*", policy, name="s2fp8"),), name="s2fp8", version=2)
