"""Sixteen-bit integers with an exponent per tensor: as good as float32, and int32 holds sums."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from examples.claims import settings
from examples.claims.claim import Better, Claim, Near
from examples.claims.training import train_arm, train_arms
from qjax import train
from qjax.contraction import overflows
from qjax.recipes import dfp16

STEPS = 200
CHAIN = 200
ROWS = 256


def run(seeds: Sequence[int]) -> dict[str, list[float]]:
    arms = {
        "float32": None,
        "DFP16": "dfp16",
        f"15 bits, chains of {CHAIN}": dfp16.policy(15, CHAIN),
        "5 bits": dfp16.policy(5),
    }
    return train_arms(settings.digits_cnn(steps=STEPS), arms, seeds)


def leaving(x: jax.Array, w: jax.Array, bits: int, chain: int | None) -> jax.Array:
    """Percent of the outputs of a dense layer, one of whose chains leaves int32."""
    policy = dfp16.policy(bits, chain)
    accumulator: Any = policy.fwd.accumulator
    operand: Any = policy.fwd.lhs
    found = overflows(accumulator, operand.encode(x).qvalue, operand.encode(w).qvalue)
    return 100 * jnp.mean(found.astype(jnp.float32))


def sums(seeds: Sequence[int]) -> dict[str, list[float]]:
    setting = settings.digits_cnn(steps=STEPS)
    images = setting.held_out["inputs"][:ROWS]

    def measure(state: train.State) -> dict[str, jax.Array]:
        """Of the 512 products of the first dense layer, on images held out."""
        _, found = setting.model.apply(
            {"params": state.params}, images, capture_intermediates=True, mutable=["intermediates"]
        )
        x = nn.relu(found["intermediates"]["conv_1"]["__call__"][0]).reshape(ROWS, -1)
        w = state.params["dense"]["kernel"]
        ones = [jnp.full(v.shape, 1.9999) for v in (x, w)]
        return {
            f"15 bits, chains of {CHAIN}": leaving(x, w, 15, CHAIN),
            f"16 bits, chains of {CHAIN}": leaving(x, w, 16, CHAIN),
            f"15 bits, chains of {CHAIN}, all operands largest": leaving(*ones, 15, CHAIN),
            "16 bits, chains of 2, all operands largest": leaving(*ones, 16, None),
        }

    step = setting.step(dfp16.policy(15, CHAIN))
    found = train_arm(setting, step, seeds, measure=measure)
    return {arm: [float(v) for v in found[arm]] for arm in found if arm not in ("loss", "accuracy")}


CLAIMS = (
    Claim(
        name="dfp16",
        method="dfp16",
        says="Integers of 16 bits train as float32 does, in as many steps.",
        published="ImageNet: accuracy of float32 or better in the same number of iterations",
        evidence="abstract",
        setting=f"Two convolutions and two dense layers learn scikit-learn's digits, {STEPS} steps "
        "of 64, Adam; no layer is exempt.",
        figure="held-out loss (nats)",
        run=run,
        expects=(
            Near(arm="DFP16", reference="float32", margin=0.01),
            Near(arm=f"15 bits, chains of {CHAIN}", reference="float32", margin=0.01),
            Better(better="DFP16", worse="5 bits"),
        ),
        note="Unlike those of the paper this network would do with eight bits, too; five show that "
        "it can tell.",
    ),
    Claim(
        name="dfp16-chains",
        method="dfp16",
        says="Operands a bit shorter and chains of some hundred products do not leave int32.",
        published="shorter chains and one bit less; their length was not read",
        evidence="not verified",
        setting=f"The same network, trained with 15 bits and chains of {CHAIN}; the 512 products "
        f"of its first dense layer on {ROWS} images held out.",
        figure="outputs with a sum that leaves int32 (%)",
        run=sums,
        expects=(
            Near(
                arm=f"15 bits, chains of {CHAIN}",
                reference="16 bits, chains of 2, all operands largest",
                margin=0.0,
            ),
            Better(better=f"15 bits, chains of {CHAIN}", worse=f"16 bits, chains of {CHAIN}"),
            Better(
                better="16 bits, chains of 2, all operands largest",
                worse=f"15 bits, chains of {CHAIN}, all operands largest",
            ),
        ),
        note="Chains of two, those of the recipe `dfp16`, cannot overflow, whatever the operands; "
        "longer ones are safe for what networks hold, not for all.",
    ),
)
