"""INT4 training: Hadamard quantization, bit splitting and sampling against plain integers."""

from collections.abc import Sequence
from typing import Any

from examples.claims import settings
from examples.claims.claim import Better, Claim, Near
from examples.claims.training import train_arms
from qjax import Policy, QType, Quantizer, Recipe, Rule, Tile, formats
from qjax.recipes import int4_transformer

# As published, the classifier stays in high precision; here it is the last layer.
CLASSIFIER = Rule("layer_3", Policy(), name="classifier")


def run(seeds: Sequence[int]) -> dict[str, list[float]]:
    plain = Quantizer(QType(formats.INT4, Tile(), "float32"))
    policies = {
        "Hadamard, splitting, sampling": int4_transformer.policy(),
        "plain INT4": Policy.all(plain),
    }
    arms: dict[str, Any] = {"float32": None}
    for name, policy in policies.items():
        arms[name] = Recipe((CLASSIFIER, Rule(".*", policy, name=name)), name="int4")
    return train_arms(settings.teacher(), arms, seeds)


CLAIMS = (
    Claim(
        name="int4-training",
        method="int4_transformer",
        says="Hadamard transforms, split gradients and sampled rows make INT4 training work.",
        published="CoLA, BERT-base: 56.89 (16 bits), 52.46 (all INT4)",
        evidence="paper",
        setting=f"{settings.TEACHER} All layers but the last.",
        figure="held-out loss (nats)",
        run=run,
        expects=(
            Better(better="Hadamard, splitting, sampling", worse="plain INT4"),
            Near(arm="Hadamard, splitting, sampling", reference="float32", margin=0.1),
        ),
    ),
)
