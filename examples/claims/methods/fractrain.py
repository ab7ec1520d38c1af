"""FracTrain: few bits first, more whenever the loss stops falling."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from examples.claims import settings
from examples.claims.claim import Better, Claim, Near
from examples.claims.training import train_arm
from qjax import train
from qjax.recipes import fractrain

PERIOD = 20


def run(seeds: Sequence[int]) -> dict[str, list[float]]:
    setting = settings.teacher()
    stages = fractrain.stages()
    rising = train.TurningPoints(recipes=stages, period=PERIOD, threshold=0.08, decay=0.5)
    arms: dict[str, Any] = {
        "8 bits": stages[-1],
        "rising": rising,
        "3 and 6 bits": stages[0],
    }
    found = {
        name: train_arm(setting, setting.step(arm), seeds)["loss"] for name, arm in arms.items()
    }
    return {name: list(np.asarray(loss, float)) for name, loss in found.items()}


CLAIMS = (
    Claim(
        name="fractrain",
        method="fractrain",
        says="Bits that rise when training turns give what eight bits from the start give.",
        published="ResNet-38, CIFAR-10: +0.04 % accuracy at 48.8 % fewer bit operations",
        evidence="authors' code",
        setting=f"{settings.TEACHER} All layers; periods of {PERIOD} steps, threshold 0.08.",
        figure="held-out loss (nats)",
        run=run,
        expects=(
            Near(arm="rising", reference="8 bits", margin=0.03),
            Better(better="rising", worse="3 and 6 bits"),
        ),
    ),
)
