"""HBFP: eight mantissa bits train like float32, four do not."""

from collections.abc import Sequence

from examples.claims import settings
from examples.claims.claim import Better, Claim, Near
from examples.claims.training import train_arms


def run(seeds: Sequence[int]) -> dict[str, list[float]]:
    arms = {"float32": None, "hbfp8": "hbfp8", "hbfp6": "hbfp6", "hbfp4": "hbfp4"}
    return train_arms(settings.teacher(), arms, seeds)


CLAIMS = (
    Claim(
        name="hbfp",
        method="hbfp",
        says="Block floating point with 8-bit mantissas trains like float32.",
        published="ResNet-50, ImageNet error 23.64 (float32), 23.88 % (HBFP8)",
        evidence="not verified",
        setting=f"{settings.TEACHER} Blocks of 64.",
        figure="held-out loss (nats)",
        run=run,
        expects=(
            Near(arm="hbfp8", reference="float32", margin=0.02),
            Better(better="hbfp8", worse="hbfp4"),
        ),
    ),
)
