"""NVFP4: which parts of the recipe training in four bits needs."""

import dataclasses
from collections.abc import Sequence

from examples.claims import settings
from examples.claims.claim import Better, Claim, Near
from examples.claims.training import train_arms
from qjax import Gemm, Policy, Quantizer, Recipe, Rule, train
from qjax.recipes import nvfp4


def everywhere(policy: Policy) -> Recipe:
    return Recipe([Rule(".*", policy)], name="nvfp4")


def run(seeds: Sequence[int]) -> dict[str, list[float]]:
    setting = settings.teacher()
    full, plain = nvfp4.policy(), Quantizer("nvfp4")
    nearest = Gemm(plain, full.fwd.rhs)
    ends = Rule("layer_0|layer_3", Policy())
    switch = setting.steps * 8 // 10
    arms = {
        "float32": None,
        "all parts": everywhere(full),
        "all parts, ends in float32": Recipe([ends, *everywhere(full).rules], name="nvfp4"),
        "all parts, then float32 forward": train.Phases(
            (everywhere(full), everywhere(dataclasses.replace(full, fwd=Gemm()))), (switch,)
        ),
        "without stochastic rounding": everywhere(
            Policy(full.fwd, nearest, dataclasses.replace(full.drhs, rhs=plain))
        ),
        "no part": everywhere(Policy.all(plain)),
    }
    return train_arms(setting, arms, seeds)


CLAIMS = (
    Claim(
        name="nvfp4",
        method="nvfp4",
        says="Square tiles, Hadamard transforms, noise and a few wide layers make NVFP4 train.",
        published="12B model, 10T tokens: loss within 1.5 % of FP8; without the parts it diverges",
        evidence="paper",
        setting=f"{settings.TEACHER} All layers are quantized but where said; the switch of the "
        "forward products comes after 80 % of the steps.",
        figure="held-out loss (nats)",
        run=run,
        expects=(
            Better(better="all parts", worse="no part"),
            Better(better="all parts", worse="without stochastic rounding"),
            Better(better="all parts, ends in float32", worse="all parts"),
            Better(better="all parts, then float32 forward", worse="all parts"),
            Near(arm="all parts, ends in float32", reference="float32", margin=0.02),
        ),
        note="0.02 nats are 1.5 % of the loss of float32 here.",
    ),
)
