"""FP8 with scales found from the tensor: as good as float32, and so are DeepSeek's tiles."""

from collections.abc import Sequence

from examples.claims import settings
from examples.claims.claim import Claim, Near
from examples.claims.training import train_arms


def run(seeds: Sequence[int]) -> dict[str, list[float]]:
    names = ("float32", "fp8", "deepseek_fp8")
    return train_arms(settings.teacher(), {name: name for name in names}, seeds)


CLAIMS = (
    Claim(
        name="fp8",
        method="deepseek",
        says="FP8 with current scales, per tensor or in fine tiles, trains like high precision.",
        published="DeepSeek-V3: relative loss error below 0.25 % of BF16",
        evidence="paper",
        setting=f"{settings.TEACHER} All layers.",
        figure="held-out loss (nats)",
        run=run,
        expects=(
            Near(arm="fp8", reference="float32", margin=0.02),
            Near(arm="deepseek_fp8", reference="float32", margin=0.02),
        ),
        note="Nearness means 0.02 nats, 1.5 % of the loss: seeds differ by more than 0.25 %.",
    ),
)
