"""Learning class by class in four bits: what the sums and the Hadamard transforms are worth."""

import dataclasses
from collections.abc import Sequence

from examples import incremental
from examples.claims.claim import Better, Claim, Near
from qjax import Gemm, Policy
from qjax.recipes import hdqt


def plain(policy: Policy) -> Policy:
    """The same integers and sums, but gradients to nearest, and not in the Hadamard domain."""
    nearest = policy.dlhs.rhs

    def leg(gemm: Gemm) -> Gemm:
        return dataclasses.replace(gemm, lhs=nearest, rhs=nearest, transform=None)

    return dataclasses.replace(policy, dlhs=leg(policy.dlhs), drhs=leg(policy.drhs))


def run(seeds: Sequence[int]) -> dict[str, list[float]]:
    options = incremental.parse([])
    arms = {
        "float32": "float32",
        "HDQT": "hdqt",
        "HDQT, sums of 12 bits": hdqt.policy(accumulator=12),
        "HDQT, sums not in tiles": hdqt.policy(tile=None),
        "4 bits to nearest, no Hadamard": plain(hdqt.policy()),
    }
    figures: dict[str, list[float]] = {}
    for name, recipe in arms.items():
        rows = incremental.run(name, recipe, options, seeds)
        last = [row for row in rows if row["classes"] == incremental.CLASSES]
        for part in ("all", "old", "new"):
            arm = name if part == "all" else f"{name}: {part} classes"
            figures[arm] = [float(row[part]) for row in last]
    return figures


CLAIMS = (
    Claim(
        name="hdqt",
        method="hdqt",
        says="Four bits and sums of eight learn class by class as float does, in the Hadamard "
        "domain and in tiles.",
        published="iCaRL, last task: DSADS 72.8 (float), 72.7 % (HDQT); CIFAR-100 43.2, 37.2 %",
        evidence="authors' code",
        setting="`examples/incremental.py`: a perceptron 64-64-64-10 learns scikit-learn's digits, "
        "four classes, then two at a time with 10 exemplars of each old one; 100 passes over the "
        "rows of each task, momentum; no layer is exempt.",
        figure="accuracy after the last task (%)",
        run=run,
        expects=(
            Near(arm="HDQT", reference="float32", margin=1.0),
            Near(arm="HDQT: old classes", reference="float32: old classes", margin=1.0),
            Near(arm="HDQT", reference="HDQT, sums of 12 bits", margin=1.0),
            Better(better="HDQT", worse="HDQT, sums not in tiles"),
            Better(better="HDQT", worse="4 bits to nearest, no Hadamard"),
        ),
        lower_is_better=False,
        note="The published figures are those that the authors' plots are made of; their CIFAR-100 "
        "curve for BiC ends at 46.1, 49.5 and 49.5 % with sums of 8, 12 and 16 bits.",
    ),
)
