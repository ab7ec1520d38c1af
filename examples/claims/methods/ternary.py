"""BitNet b1.58 and TriLM: weights of three values, trained so from the start, and in two stages."""

from collections.abc import Sequence

from examples.claims import settings
from examples.claims.claim import Better, Claim, Near
from examples.claims.training import train_arms
from qjax import train

STEPS = 600
PEAK, FALL = 2.4e-3 / 4e-4, 1.5 / 2.4  # Of TriLM 99M: relative to FloatLM, and of its stages.


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
    """The published ablation, with the published ratios of the rates to that of floats."""
    setting = settings.text(steps=STEPS)
    first = PEAK * setting.rate
    arms = {}
    for name, fall, decay in (
        ("neither", 1.0, 1.0),
        ("rate alone", FALL, 1.0),
        ("decay alone", 1.0, 2 / 3),
        ("both", FALL, 2 / 3),
    ):
        optimizer = train.two_stage_adamw(
            first, fall * first, steps=STEPS, warmup=20, decay_share=decay
        )
        arms[name] = setting.step("trilm", optimizer=optimizer)
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
        setting=f"{settings.TEXT.replace('250', str(STEPS))} Peak of the rate 6 times that of "
        "floats, then 0.625 of it; decay of 0.1 ends at two thirds.",
        figure="held-out loss (nats per byte)",
        run=stages,
        expects=(
            Better(better="both", worse="neither"),
            Better(better="both", worse="rate alone"),
            Better(better="decay alone", worse="neither"),
        ),
        note="Hundreds of steps are too few: the loss still falls fast at the end, so that a lower "
        "rate costs progress, and a decay of 0.1 has not yet bounded the weights when it ends.",
    ),
)
