"""L-Mul: products by an addition of integers, in every layer and in attention, cost little."""

from collections.abc import Sequence

from examples.claims import settings
from examples.claims.claim import Claim, Near
from examples.claims.training import train_arms
from qjax import train


def run(seeds: Sequence[int]) -> dict[str, list[float]]:
    setting = settings.text(steps=150)
    arms = {
        "exact products": None,
        # Trained exactly and evaluated with approximate products: a phase without steps.
        "L-Mul after training": train.Phases((None, "lmul"), (setting.steps,)),
    }
    return train_arms(setting, arms, seeds)


CLAIMS = (
    Claim(
        name="lmul",
        method="lmul",
        says="Approximate products by integer addition are almost lossless in a trained model.",
        published="4 mantissa bits as precise as E4M3 products; attention almost lossless",
        evidence="abstract",
        setting="A transformer of one block and width 48 learns bytes of the Python standard "
        "library, 150 steps of 8 x 32 bytes, Adam.",
        figure="held-out loss (nats per byte)",
        run=run,
        expects=(Near(arm="L-Mul after training", reference="exact products", margin=0.02),),
    ),
)
