"""S2FP8: training with a loss scaled by 1e-4 and 1e-7, where plain E5M2 flushes gradients."""

from collections.abc import Sequence

from examples.claims import settings
from examples.claims.claim import Better, Claim, Near
from examples.claims.training import train_arms
from qjax import Policy, Quantizer, Recipe, Rule, train


def run(seeds: Sequence[int]) -> dict[str, list[float]]:
    setting = settings.teacher()
    plain = Recipe([Rule(".*", Policy.all(Quantizer("e5m2")))], name="e5m2")
    arms = {"float32": None}
    for factor in (1.0, 1e-4, 1e-7):
        for name, recipe in (("E5M2", plain), ("S2FP8", "s2fp8")):
            step = setting.step(recipe, loss_scale=train.StaticScale(factor))
            arms[f"{name}, loss x {factor:g}"] = step
    return train_arms(setting, arms, seeds)


CLAIMS = (
    Claim(
        name="s2fp8",
        method="s2fp8",
        says="Shifting and squeezing trains without a loss scale where plain FP8 (E5M2) fails.",
        published="ResNet-20, CIFAR-10: 91.5 (float32), 91.1 (S2FP8), 17.9 % (FP8)",
        evidence="paper",
        setting=f"{settings.TEACHER} The loss is multiplied, and its gradient divided again, by "
        "a factor; all layers are quantized.",
        figure="held-out loss (nats)",
        run=run,
        expects=(
            Better(better="S2FP8, loss x 0.0001", worse="E5M2, loss x 0.0001"),
            Better(better="S2FP8, loss x 1e-07", worse="E5M2, loss x 1e-07"),
            Near(arm="S2FP8, loss x 1e-07", reference="float32", margin=0.02),
            Near(arm="S2FP8, loss x 0.0001", reference="float32", margin=0.02),
        ),
        note="What plain E5M2 loses in a network this small needs a small loss to show.",
    ),
)
