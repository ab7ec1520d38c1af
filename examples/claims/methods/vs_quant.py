"""VS-Quant: one trained network, rounded after training with scales of three reaches."""

from collections.abc import Sequence

import jax

import qjax
from examples.claims import settings
from examples.claims.claim import Better, Claim, Near
from examples.claims.training import train_arm
from qjax import Gemm, Policy, QType, Quantizer, Tile, formats, qtypes, train
from qjax.recipes.vs_quant import per_vector

BITS = 4


def _recipes() -> dict[str, Policy]:
    kinds = {
        "per tensor": QType(formats.Int(BITS), Tile(), qtypes.FLOAT32_SCALE),
        "per channel": QType(formats.Int(BITS), Tile(None, 1), qtypes.FLOAT32_SCALE),
        "per vector": per_vector(BITS, 6, channels=True),
    }
    return {
        name: Policy(fwd=Gemm(Quantizer(kind), Quantizer(kind))) for name, kind in kinds.items()
    }


def after_training(seeds: Sequence[int]) -> dict[str, list[float]]:
    setting = settings.teacher()
    held = setting.held_out

    def measure(state: train.State) -> dict[str, jax.Array]:
        found = {}
        for name, policy in _recipes().items():
            model = qjax.quantize(setting.model, policy)
            logits = model.apply({"params": state.params}, held["inputs"])
            found[name] = settings.figures(logits, held)[0]
        return found

    figures = train_arm(setting, setting.step(None), seeds, measure=measure)
    arms = {"float32": figures["loss"], **{name: figures[name] for name in _recipes()}}
    return {name: [float(value) for value in values] for name, values in arms.items()}


CLAIMS = (
    Claim(
        name="vs-quant",
        method="vs_quant",
        says="Scales per vector make four-bit weights and activations usable without retraining.",
        published="ResNet-50 above 75 % with 4-bit weights and activations",
        evidence="abstract",
        setting=f"{settings.TEACHER} Weights and activations of all layers in 4 bits afterwards; "
        "vectors of 16 with 6-bit scales.",
        figure="held-out loss (nats)",
        run=after_training,
        expects=(
            Better(better="per channel", worse="per tensor"),
            Better(better="per vector", worse="per channel"),
            Near(arm="per vector", reference="float32", margin=0.1),
        ),
    ),
)
