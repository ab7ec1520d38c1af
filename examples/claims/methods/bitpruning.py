"""BitPruning: widths that are learned spend bits where they are needed."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from examples.claims import settings
from examples.claims.claim import Better, Claim, Near
from examples.claims.training import train_arm, train_arms
from qjax import train
from qjax.recipes import bitpruning

PRICE = 0.01


def step(setting: settings.Setting, bits: float, price: float, learn: int) -> train.Step:
    """A step in which widths learn for some steps, are then rounded up, and stay."""
    settle = train.freeze_after(learn, bitpruning.WIDTHS, final=jnp.ceil)
    # Widths move by tenths of a bit where weights move by thousandths.
    faster = optax.masked(optax.scale(20.0), _widths)
    optimizer = optax.chain(optax.adam(setting.schedule()), faster, settle)
    return setting.step(bitpruning.policy(bits, price), optimizer=optimizer)


def _widths(tree: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: "quant" in str(path), tree)


def mean_width(state: train.State) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(state.params)
    return {"width": jnp.mean(jnp.stack([x for path, x in leaves if "quant" in str(path)]))}


def run(seeds: Sequence[int]) -> dict[str, list[float]]:
    setting = settings.teacher()
    learned = train_arm(
        setting, step(setting, 8.0, PRICE, setting.steps // 2), seeds, measure=mean_width
    )
    same = float(np.floor(learned["width"].mean()))
    arms = {
        "float32": None,
        "no price": step(setting, 8.0, 0.0, setting.steps // 2),
        "all alike, at most the same mean": step(setting, same, 0.0, 0),
    }
    return {"learned": list(learned["loss"]), **train_arms(setting, arms, seeds)}


CLAIMS = (
    Claim(
        name="bitpruning",
        method="bitpruning",
        says="Learned widths of a few bits on average lose little, and less than widths all alike.",
        published="ImageNet, mean bits: ResNet-18 3.76, MobileNetV2 4.36, within 0.5 % of top-1",
        evidence="abstract",
        setting=f"{settings.TEACHER} All layers; widths learn for half of the steps, at a price of "
        f"{PRICE:g} nats per bit of an operand, then are rounded up.",
        figure="held-out loss (nats)",
        run=run,
        expects=(
            Near(arm="learned", reference="float32", margin=0.05),
            Better(better="learned", worse="all alike, at most the same mean"),
        ),
    ),
)
