"""MX training: all six operands in an OCP microscaling type, tiles of 32 with an E8M0 scale.

Every operand is quantized from its high-precision values along the axes that its leg
contracts, so `x` and `w` are each quantized twice. The scale rule is the OCP one (floor).
Six- and eight-bit types round to nearest even. The four-bit type rounds the incoming
gradients stochastically, because nearest rounding loses the small gradients of a tile; and it
takes their scale large enough that no element saturates ("rceil"), because noise around a
clipped element is biased: the floor rule clips what lies between 6 and 8 times the scale, and
a small network then diverges with noise as it does without. `mxfp4_rne` has neither, for
comparison. `mxfp4_rht` keeps the floor rule and shrinks elements by 3/4 to the same end.

Source: Rouhani et al. 2023, "Microscaling Data Formats for Deep Learning"
(arXiv 2310.10537), and the OCP MX specification v1.0. Read: the authors' emulator, of the paper
the abstract; its tables were not seen. There, operands, results and all
element-wise operations are rounded to bfloat16. `in_bfloat16(recipe)` does so for what comes out
of products; what is computed in between (normalizations, softmax, residuals) is rounded through
the door for functions, `qjax.quantize(f, recipe, elementwise="bfloat16")`, where `f(variables, x)`
may apply a Flax model, and weights by `train.Step(compute_dtype=jnp.bfloat16)`. The authors'
emulator rounds halves away from zero, which is a recipe too:
`Quantizer("mxfp8", rounding=NearestAway())`. Several axes of tokens are flattened before they are
cut into blocks; the emulator cuts along the last of them. `mxfp4_rht` is from Tseng et al. 2025,
"Training LLMs with MXFP4" (arXiv 2502.20586), after the authors' code.
"""

import dataclasses

from qjax import qtypes
from qjax.contraction import Gemm, Hadamard, Policy
from qjax.contraction.axes import LEGS
from qjax.quantizer import Quantizer, Shrunk
from qjax.recipes.registry import LOGITS, Method, register, six_operands
from qjax.recipes.rules import Recipe, Rule
from qjax.rounding import Stochastic

METHOD = Method(
    title="Microscaling (MX)",
    paper="arXiv:2310.10537",
    cost="each operand is quantized twice, once per direction",
)
BACKWARD = Method(
    title="MXFP4 backward",
    paper="arXiv:2502.20586",
    cost="Hadamard transforms of 64 and random bits for both operands of both gradients",
)


def in_bfloat16(recipe: Recipe) -> Recipe:
    """The recipe with the results of all products rounded to bfloat16, forward and backward."""

    def rounded(rule: Rule) -> Rule:
        legs = {
            leg: dataclasses.replace(getattr(rule.policy, leg), result=Quantizer("bfloat16"))
            for leg in LEGS
        }
        return dataclasses.replace(rule, policy=dataclasses.replace(rule.policy, **legs))

    rules = tuple(rounded(rule) for rule in recipe.rules)
    return dataclasses.replace(recipe, rules=rules, name=f"{recipe.name}_bfloat16")


@register("mxfp8", METHOD)
def mxfp8() -> Recipe:
    """E4M3 in all six operands."""
    return six_operands("mxfp8", Quantizer(qtypes.MXFP8))


@register("mxfp8_e5m2", METHOD)
def mxfp8_e5m2() -> Recipe:
    """E4M3 forward, E5M2 for incoming gradients."""
    return six_operands(
        "mxfp8_e5m2", Quantizer(qtypes.MXFP8), cotangent=Quantizer(qtypes.MXFP8_E5M2)
    )


@register("mxfp6_e3m2", METHOD)
def mxfp6_e3m2() -> Recipe:
    """E3M2 in all six operands."""
    return six_operands("mxfp6_e3m2", Quantizer(qtypes.MXFP6_E3M2))


@register("mxfp6_e2m3", METHOD)
def mxfp6_e2m3() -> Recipe:
    """E2M3 in all six operands."""
    return six_operands("mxfp6_e2m3", Quantizer(qtypes.MXFP6_E2M3))


@register("mxfp4", METHOD)
def mxfp4() -> Recipe:
    """E2M1 in all six operands, gradients rounded stochastically and never clipped."""
    noisy = Quantizer(qtypes.MXFP4, rounding=Stochastic(), scale="rceil")
    return six_operands("mxfp4", Quantizer(qtypes.MXFP4), cotangent=noisy, version=2)


@register("mxfp4_rne", METHOD)
def mxfp4_rne() -> Recipe:
    """E2M1 in all six operands, everything rounded to nearest even."""
    return six_operands("mxfp4_rne", Quantizer(qtypes.MXFP4))


@register("mxfp4_rht", BACKWARD)
def mxfp4_rht() -> Recipe:
    """E2M1 in both gradients alone, behind random Hadamard transforms, unbiased."""
    noisy = Shrunk(Quantizer(qtypes.MXFP4, rounding=Stochastic(), scale="floor"))
    leg = Gemm(noisy, noisy, transform=Hadamard(64, seed=0))  # type: ignore[arg-type]
    rule = Rule(".*", Policy(dlhs=leg, drhs=leg), name="mxfp4_rht")
    return Recipe((LOGITS, rule), name="mxfp4_rht")


@register("mxint8", METHOD)
def mxint8() -> Recipe:
    """INT8 elements with E8M0 scales in all six operands."""
    return six_operands("mxint8", Quantizer(qtypes.MXINT8))
