"""Boosted trees on gradients of a few bits."""

from collections.abc import Sequence

from examples.boosting.tables import Method, Size, boosted
from examples.claims.claim import Better, Claim, Near
from qjax.rounding import NearestAway

SIZE = Size(rounds=60, leaves=15)


def run(seeds: Sequence[int]) -> dict[str, list[float]]:
    arms = {
        "float": Method("float", None),
        "3 bits": Method("stochastic", 3),
        "2 bits": Method("stochastic", 2),
        "2 bits, nearest": Method("nearest", 2, NearestAway()),
        "2 bits, no refit": Method("stochastic", 2, refit=False),
    }
    return {
        name: [boosted("breast_cancer", seed, method, SIZE) for seed in seeds]
        for name, method in arms.items()
    }


def digits(seeds: Sequence[int]) -> dict[str, list[float]]:
    size = Size(rounds=30, leaves=15)
    arms = {
        "float": Method("float", None),
        "2 bits": Method("stochastic", 2),
        "2 bits, nearest": Method("nearest", 2, NearestAway()),
    }
    return {
        name: [100 * boosted("digits", seed, method, size) for seed in seeds]
        for name, method in arms.items()
    }


CLAIMS = (
    Claim(
        name="gbdt",
        method="gbdt",
        says="Two or three bits of gradient are as good as floats, if rounding is stochastic.",
        published="Higgs, AUC: 0.8456 (2 bits), 0.8457 (3 bits), 0.8457 (float)",
        evidence="authors' code",
        setting="60 trees of 15 leaves on scikit-learn's breast cancer table, a quarter held out.",
        figure="AUC on rows held out",
        run=run,
        expects=(
            Near(arm="2 bits", reference="float", margin=0.005),
            Near(arm="3 bits", reference="float", margin=0.005),
            Better(better="2 bits", worse="2 bits, nearest"),
        ),
        lower_is_better=False,
    ),
    Claim(
        name="gbdt-digits",
        method="gbdt",
        says="Of ten classes, too, two bits of gradient are enough, and nearest rounding fails.",
        published="nearest rounding is biased, for most gradients are small; no figure was read",
        evidence="authors' code",
        setting="30 trees of 15 leaves for each class of scikit-learn's digits, a quarter held "
        "out.",
        figure="accuracy on rows held out (%)",
        run=digits,
        expects=(
            Near(arm="2 bits", reference="float", margin=1.0),
            Better(better="2 bits", worse="2 bits, nearest"),
        ),
        lower_is_better=False,
    ),
)
