"""FP8 with scales from the tensor, from its history, or of tiles: as good as float32."""

from collections.abc import Sequence

from examples.claims import settings
from examples.claims.claim import Claim, Near
from examples.claims.training import train_arms

NAMES = ("fp8", "fp8_delayed", "deepseek_fp8")


def run(seeds: Sequence[int]) -> dict[str, list[float]]:
    return train_arms(settings.teacher(), {name: name for name in ("float32", *NAMES)}, seeds)


CLAIMS = (
    Claim(
        name="fp8",
        method="fp8",
        says="FP8 with scales per tensor, current or delayed, or of tiles trains like float32.",
        published="DeepSeek-V3: relative loss error below 0.25 % of BF16; TE: no figure read",
        evidence="paper",
        setting=f"{settings.TEACHER} All layers. Methods `fp8`, `fp8_delayed`, `deepseek`.",
        figure="held-out loss (nats)",
        run=run,
        expects=tuple(Near(arm=name, reference="float32", margin=0.02) for name in NAMES),
        note="Nearness means 0.02 nats, 1.5 % of the loss: seeds differ by more than 0.25 %.",
    ),
)
