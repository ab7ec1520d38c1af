"""HBFP and Accuracy Booster: how many mantissa bits training needs, and where and when."""

from collections.abc import Sequence

from examples.claims import settings
from examples.claims.claim import Better, Claim, Near
from examples.claims.training import train_arms
from qjax import train
from qjax.recipes import hbfp


def widths(seeds: Sequence[int]) -> dict[str, list[float]]:
    arms = {"float32": None, "hbfp8": "hbfp8", "hbfp4": "hbfp4"}
    return train_arms(settings.teacher(), arms, seeds)


def booster(seeds: Sequence[int]) -> dict[str, list[float]]:
    setting = settings.teacher()
    # The first layer and the last; the last tenth of the steps stands for the last epoch.
    early, late = hbfp.stages(first="layer_0", last="layer_3")
    arms = {
        "float32": None,
        "hbfp4 throughout": hbfp.booster(4, 4, first="layer_0", last="layer_3"),
        "6 bits at the ends": early,
        "Accuracy Booster": train.Piecewise((early, late), (setting.steps * 9 // 10,)),
    }
    return train_arms(setting, arms, seeds)


CLAIMS = (
    Claim(
        name="hbfp",
        method="hbfp",
        says="Block floating point with 8-bit mantissas trains like float32.",
        published="ResNet-50, ImageNet error 23.64 (float32), 23.88 % (HBFP8)",
        evidence="secondary source",
        setting=f"{settings.TEACHER} Blocks of 64, all layers.",
        figure="held-out loss (nats)",
        run=widths,
        expects=(
            Near(arm="hbfp8", reference="float32", margin=0.02),
            Better(better="hbfp8", worse="hbfp4"),
        ),
    ),
    Claim(
        name="accuracy-booster",
        method="hbfp",
        says="Six bits in the first and last layer and the last epoch repair 4-bit training.",
        published="over 99 % of the arithmetic in 4 bits, accuracy as in float32",
        evidence="abstract",
        setting=f"{settings.TEACHER} Blocks of 64, all layers.",
        figure="held-out loss (nats)",
        run=booster,
        expects=(
            Better(better="Accuracy Booster", worse="hbfp4 throughout"),
            Better(better="Accuracy Booster", worse="6 bits at the ends"),
            Near(arm="Accuracy Booster", reference="float32", margin=0.05),
        ),
        note="Nearness here means 0.05 nats; the paper gives accuracies within noise.",
    ),
)
