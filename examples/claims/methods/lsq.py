"""Learned steps at two bits, against bounds that are learned, statistical or the maximum."""

from collections.abc import Sequence

from examples.claims import settings
from examples.claims.claim import Better, Claim, Near
from examples.claims.training import train_arms
from qjax import Gemm, Policy, Recipe, Rule
from qjax.contraction.operands import Estimated, Spaced
from qjax.quantizer import Quantizer
from qjax.recipes import dorefa, dsq, lsq, pact


def inner(policy: Policy) -> Recipe:
    """The policy in the two middle layers; 8-bit learned steps at the ends."""
    ends = Rule("layer_0|layer_3", lsq.policy(8))
    return Recipe([ends, Rule(".*", policy)], name="qat")


def run(seeds: Sequence[int]) -> dict[str, list[float]]:
    largest = Estimated(Quantizer("int2:float32"))
    arms = {
        "float32": None,
        "LSQ, 4 bits": inner(lsq.policy(4, signed=False)),
        "LSQ": inner(lsq.policy(2, signed=False)),
        "PACT and SAWB": inner(pact.policy(2, bound=4.0)),
        "DoReFa": inner(dorefa.policy(2, 2)),
        "DSQ": inner(dsq.policy(2)),
        "largest weight, [0, 1]": inner(Policy(fwd=Gemm(Spaced(bits=2), largest))),
    }
    return train_arms(settings.teacher(), arms, seeds)


CLAIMS = (
    Claim(
        name="lsq",
        method="lsq",
        says="Learned steps beat learned or fixed bounds at two bits, and lose little at four.",
        published="ResNet-18, ImageNet top-1 at 2 bits: LSQ 67.6, PACT 64.4 % (float32 70.5 %)",
        evidence="secondary source",
        setting=f"{settings.TEACHER} Two bits (if not said) in the middle, eight at the ends.",
        figure="held-out loss (nats)",
        run=run,
        expects=(
            Near(arm="LSQ, 4 bits", reference="float32", margin=0.05),
            Better(better="LSQ", worse="PACT and SAWB"),
            Better(better="LSQ", worse="DoReFa"),
            Better(better="LSQ", worse="DSQ"),
            Better(better="LSQ", worse="largest weight, [0, 1]"),
        ),
        note="All arms share the learning rate, which no paper chose for this problem.",
    ),
)
