"""Squashed weights: few levels serve better where a tangent spreads the weights over them."""

from collections.abc import Sequence

from examples.claims import settings
from examples.claims.claim import Better, Claim, Near
from examples.claims.training import train_arms
from qjax import Gemm, Policy, Quantizer
from qjax.contraction.operands import Estimated
from qjax.recipes import squashed


def linear(bits: int) -> Policy:
    """Weights on the grid of their largest magnitude, as they are."""
    return Policy(fwd=Gemm(None, Estimated(Quantizer(f"int{bits}:float32"))))


def run(seeds: Sequence[int]) -> dict[str, list[float]]:
    arms = {
        "float32": None,
        "squashed, 16 bits": squashed.policy(16),
        "squashed, 5 bits": squashed.policy(5),
        "squashed, 3 bits": squashed.policy(3),
        "linear, 3 bits": linear(3),
        "squashed, 4 bits": squashed.policy(4),
        "linear, 4 bits": linear(4),
    }
    return train_arms(settings.teacher(), arms, seeds)


CLAIMS = (
    Claim(
        name="squashed",
        method="squashed",
        says="Squashed weights of five bits are as good as float, and beat a linear grid.",
        published="keyword spotting: same false detections as float at 4 and 5 bits",
        evidence="abstract",
        setting=f"{settings.TEACHER} All weights, nothing else.",
        figure="held-out loss (nats)",
        run=run,
        expects=(
            Near(arm="squashed, 5 bits", reference="float32", margin=0.02),
            Near(arm="squashed, 5 bits", reference="squashed, 16 bits", margin=0.02),
            Better(better="squashed, 4 bits", worse="linear, 4 bits"),
            Better(better="squashed, 3 bits", worse="linear, 3 bits"),
        ),
        note="What five bits lose against float32 sixteen lose too: it is the squashing itself, "
        "under which no weight is larger than 1.7 times their root mean square, and this small "
        "network wants larger ones. A squashed grid then pays only where a linear one has too few "
        "levels, at three bits.",
    ),
)
