"""A2Q and A2Q+: what an accumulator of few bits costs where it cannot overflow."""

from collections.abc import Sequence

from examples.claims import settings
from examples.claims.claim import Better, Claim, Near
from examples.claims.training import train_arms
from qjax import Policy, Recipe, Rule
from qjax.recipes import a2q, lsq


def inner(policy: Policy) -> Recipe:
    return Recipe([Rule("layer_0|layer_3", lsq.policy(8)), Rule(".*", policy)], name="a2q")


def run(seeds: Sequence[int]) -> dict[str, list[float]]:
    arms = {"4 bits, no limit": inner(lsq.policy(4, signed=False))}
    for bits in (14, 11, 9):
        for name, centred in (("A2Q", False), ("A2Q+", True)):
            policy = a2q.policy(bits, signed=False, centred=centred)
            arms[f"{name}, {bits} bits"] = inner(policy)
    return train_arms(settings.teacher(), arms, seeds)


CLAIMS = (
    Claim(
        name="a2q",
        method="a2q",
        says="Accumulators can be narrow without overflow, and narrower with centred weights.",
        published="ResNet-18, CIFAR-10 at 16/14/12 bits: A2Q 94.2/92.6/83.9, A2Q+ 94.2/94.1/90.6 %",
        evidence="authors' code",
        setting=f"{settings.TEACHER} Four bits and sums of 96 products in the middle layers; the "
        "bits are those of the accumulator.",
        figure="held-out loss (nats)",
        run=run,
        expects=(
            Near(arm="A2Q+, 14 bits", reference="4 bits, no limit", margin=0.03),
            Better(better="A2Q+, 11 bits", worse="A2Q, 11 bits"),
            Better(better="A2Q+, 9 bits", worse="A2Q, 9 bits"),
            Better(better="A2Q, 14 bits", worse="A2Q, 9 bits"),
        ),
    ),
)
