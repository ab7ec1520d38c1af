"""QFX: learned binary points, and weights of few ones."""

from collections.abc import Sequence

import optax

from examples.claims import settings
from examples.claims.claim import Better, Claim, Near
from examples.claims.training import train_arms
from qjax import train


def run(seeds: Sequence[int]) -> dict[str, list[float]]:
    setting = settings.teacher()
    optimizer = optax.adam(setting.schedule())
    fixed = optax.chain(optimizer, train.freeze_after(0, ".*/quant/.*"))
    arms = {
        "float32": None,
        "8 bits": "qfx8",
        "8 bits, two ones": "qfx8_2hot",
        "8 bits, one one": "qfx8_1hot",
        "4 bits": "qfx4",
        "4 bits, points as they began": setting.step("qfx4", optimizer=fixed),
    }
    return train_arms(setting, arms, seeds)


CLAIMS = (
    Claim(
        name="qfx",
        method="qfx",
        says="Learned points beat those that hold the largest value; two ones a weight are enough.",
        published="fewer bits than quantization after training, on CIFAR-10 and ImageNet",
        evidence="abstract",
        setting=f"{settings.TEACHER} All layers.",
        figure="held-out loss (nats)",
        run=run,
        expects=(
            Near(arm="8 bits", reference="float32", margin=0.02),
            Near(arm="8 bits, two ones", reference="8 bits", margin=0.02),
            Better(better="8 bits, two ones", worse="8 bits, one one"),
            Better(better="4 bits", worse="4 bits, points as they began"),
        ),
    ),
)
