"""BitNet b1.58 and TriLM: weights of three values, trained so from the start, and in two stages."""

from collections.abc import Sequence

from examples.claims import settings
from examples.claims.claim import Better, Claim, Near
from examples.claims.training import train_arms
from qjax import train


def weights(seeds: Sequence[int]) -> dict[str, list[float]]:
    setting = settings.text()
    arms = {
        "float32": None,
        "BitNet b1.58": "bitnet_b158",
        "TriLM": "trilm",
        # Evaluated in the last phase, which has no steps.
        "rounded after training": train.Phases((None, "trilm"), (setting.steps,)),
    }
    return train_arms(setting, arms, seeds)


def stages(seeds: Sequence[int]) -> dict[str, list[float]]:
    setting, rate = settings.text(), 8e-3
    one = train.two_stage_adamw(rate, rate, steps=setting.steps, warmup=20, decay_share=1.0)
    two = train.two_stage_adamw(rate, 0.6 * rate, steps=setting.steps, warmup=20)
    arms = {
        "one stage": setting.step("trilm", optimizer=one),
        "two stages": setting.step("trilm", optimizer=two),
    }
    return train_arms(setting, arms, seeds)


CLAIMS = (
    Claim(
        name="ternary",
        method="ternary",
        says="Weights of three values train close to float ones; rounding them afterwards fails.",
        published="perplexity at 3B: 10.04 (float), 9.91 (b1.58); at 1.3B: 11.25, 11.29",
        evidence="not verified",
        setting=settings.TEXT,
        figure="held-out loss (nats per byte)",
        run=weights,
        expects=(
            Better(better="BitNet b1.58", worse="rounded after training"),
            Better(better="TriLM", worse="rounded after training"),
            Near(arm="BitNet b1.58", reference="float32", margin=0.15),
        ),
        note="The gap to float weights shrinks with size; 0.15 nats is what nearness means here.",
    ),
    Claim(
        name="ternary-stages",
        method="ternary",
        says="A lower peak of the rate from half of the run, and no decay at the end, help TriLM.",
        published="1.1B: both together end lowest, then decay alone, rate alone, neither",
        evidence="paper",
        setting=f"{settings.TEXT} Peak of the rate 0.008, then 0.0048.",
        figure="held-out loss (nats per byte)",
        run=stages,
        expects=(Better(better="two stages", worse="one stage"),),
    ),
)
