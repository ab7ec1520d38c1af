"""ShiftQuant: 4-bit gradients in a few shifted groups, and normalization without squares."""

from collections.abc import Sequence

import flax.linen as nn
import jax

from examples.claims import settings
from examples.claims.claim import Better, Claim, Near
from examples.claims.training import train_arms
from qjax import Policy, QType, Quantizer, Recipe, Rule, Tile, formats
from qjax.linen import L1Norm
from qjax.recipes import shiftquant
from qjax.rounding import Stochastic


class Normalized(nn.Module):
    """A perceptron with a normalization after each hidden layer."""

    norm: type[nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.reshape(x.shape[0], -1)
        for width in (64, 64):
            x = nn.relu(self.norm()(nn.Dense(width)(x)))
        return nn.Dense(10, name="head")(x)


def gradients(seeds: Sequence[int]) -> dict[str, list[float]]:
    policy = shiftquant.policy(4)
    grouped, plain = policy.dlhs.lhs, policy.fwd.lhs

    def scaled(tile: Tile) -> Quantizer:
        return Quantizer(QType(formats.Int(4), tile, "float32"), rounding=Stochastic())

    cotangents = {
        "one scale per tensor": scaled(Tile()),
        "ShiftQuant, 4 groups": grouped,
        "one scale per channel": scaled(Tile(1, None)),
    }
    arms = {
        name: Recipe([Rule(".*", Policy.all(plain, cotangent=cotangent))], name="shiftquant")
        for name, cotangent in cotangents.items()
    }
    return train_arms(settings.teacher(), arms, seeds)


def norms(seeds: Sequence[int]) -> dict[str, list[float]]:
    found = {}
    for name, norm in (("standard deviation", nn.LayerNorm), ("mean magnitude", L1Norm)):
        setting = settings.digits(model=Normalized(norm), steps=200)
        for recipe in ("float32", "shiftquant4"):
            found |= train_arms(setting, {f"{name}, {recipe}": recipe}, seeds, figure="accuracy")
    return found


CLAIMS = (
    Claim(
        name="shiftquant",
        method="shiftquant",
        says="A few shifted groups of gradient channels are nearly as good as a scale for each.",
        published="4-bit ResNets lose 0.92 % accuracy against float",
        evidence="abstract",
        setting=f"{settings.TEACHER} Integers of 4 bits in all operands of all layers; the arms "
        "differ in the scales of the gradients alone.",
        figure="held-out loss (nats)",
        run=gradients,
        expects=(
            Better(better="ShiftQuant, 4 groups", worse="one scale per tensor"),
            Near(arm="ShiftQuant, 4 groups", reference="one scale per channel", margin=0.05),
        ),
    ),
    Claim(
        name="l1-norm",
        method="shiftquant",
        says="Layers normalized by mean magnitudes train as well as by standard deviations.",
        published="fully quantized normalization, +35.5 % throughput on CPUs; no accuracy read",
        evidence="abstract",
        setting="A perceptron 64-64-64-10 with a normalization after each hidden layer learns "
        "scikit-learn's digits, 200 steps of 64, Adam.",
        figure="held-out accuracy (%)",
        run=norms,
        expects=(
            Near(arm="mean magnitude, float32", reference="standard deviation, float32", margin=1),
            Near(
                arm="mean magnitude, shiftquant4",
                reference="standard deviation, shiftquant4",
                margin=1,
            ),
        ),
        lower_is_better=False,
    ),
)
