"""Microscaling: eight and six bits train like float32, four bits with noise better than without."""

from collections.abc import Sequence

from examples.claims import settings
from examples.claims.claim import Better, Claim, Near
from examples.claims.training import train_arms


def run(seeds: Sequence[int]) -> dict[str, list[float]]:
    names = ("float32", "mxfp8", "mxfp6_e3m2", "mxfp4", "mxfp4_rne")
    return train_arms(settings.teacher(), {name: name for name in names}, seeds)


CLAIMS = (
    Claim(
        name="mx",
        method="microscaling",
        says="MXFP8 and MXFP6 train like float32; MXFP4 needs unbiased stochastic gradients.",
        published="GPT models up to 1.5B in MXFP6 match FP32 loss",
        evidence="not verified",
        setting=f"{settings.TEACHER} All layers.",
        figure="held-out loss (nats)",
        run=run,
        expects=(
            Near(arm="mxfp8", reference="float32", margin=0.02),
            Near(arm="mxfp6_e3m2", reference="float32", margin=0.02),
            Better(better="mxfp4", worse="mxfp4_rne"),
        ),
    ),
)
