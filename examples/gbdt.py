"""Boosts trees on gradients of 2 to 5 bits, beside float gradients and scikit-learn.

    python examples/gbdt.py --data breast_cancer digits --bits 2 3 4 5

Gradients and second derivatives become small integers by stochastic rounding, histograms are exact
sums of integers, and the values of leaves are refitted from float derivatives (Shi et al. 2022,
"Quantized training of gradient boosting decision trees", arXiv 2207.09682). All runs of a seed see
the same rows; the table gives means over seeds with their standard errors.
"""

import argparse
import pathlib
import sys
from typing import Any

import numpy as np
from boosting.tables import DATA, METRIC, Method, Size, boosted, score, split

from qjax import train
from qjax.rounding import NearestAway

FIELDS = ("data", "method", "bits", "metric", "mean", "standard_error", "seeds", "beside_float")


def methods(bits: list[int]) -> list[Method]:
    """Float gradients, then for each width the published way and what it is without one part."""
    rows = [Method("float", None)]
    for b in bits:
        rows += [Method("stochastic", b), Method("nearest", b, NearestAway())]
        rows += [Method("stochastic, no refit", b, refit=False)]
    return rows


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--data",
        nargs="+",
        choices=DATA,
        default=["breast_cancer", "digits"],
        metavar="NAME",
        help=f"scikit-learn's own tables: {', '.join(DATA)} (default: breast_cancer digits)",
    )
    add(
        "--bits",
        type=int,
        nargs="+",
        default=[2, 3, 4, 5],
        metavar="B",
        help="bits of gradients, 2 to 7 (default: 2 3 4 5)",
    )
    add("--rounds", type=int, default=100, help="trees per class (count; default: 100)")
    add("--leaves", type=int, default=31, help="leaves per tree (count; default: 31)")
    add("--rows", type=int, default=20, help="least rows of a leaf (count; default: 20)")
    add("--rate", type=float, default=0.1, help="learning rate (default: 0.1)")
    add("--seeds", type=int, default=3, help="splits into train and test (count; default: 3)")
    add(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("runs/gbdt.csv"),
        metavar="FILE",
        help="the table (path; default: runs/gbdt.csv)",
    )
    options = parser.parse_args(arguments)
    for name in ("rounds", "leaves", "rows", "seeds"):
        least = 2 if name == "leaves" else 1
        if getattr(options, name) < least:
            parser.error(f"--{name} must be at least {least}, but is {getattr(options, name)}")
    if any(not 2 <= bits <= 7 for bits in options.bits):
        parser.error(f"--bits must be 2 to 7, but are {options.bits}")
    if not options.rate > 0:
        parser.error(f"--rate must be positive, but is {options.rate}")
    return options


def library(name: str, seed: int, size: Size) -> float:
    """Trains and tests scikit-learn's boosting with the same limits."""
    from sklearn import ensemble

    x, y, test_x, test_y = split(name, seed)
    loss = DATA[name]
    kind = "Regressor" if loss == "squared" else "Classifier"
    model = getattr(ensemble, f"HistGradientBoosting{kind}")(
        max_iter=size.rounds,
        max_leaf_nodes=size.leaves,
        min_samples_leaf=size.rows,
        learning_rate=size.rate,
        early_stopping=False,
    ).fit(x, y)
    if loss == "squared":
        return score(loss, test_y, model.predict(test_x)[None])
    scores = model.decision_function(test_x)
    return score(loss, test_y, scores[None] if scores.ndim == 1 else scores.T)


def row(
    name: str, method: str, bits: Any, values: list[float], base: list[float]
) -> dict[str, Any]:
    """A row of the table; differences to float gradients are taken seed by seed."""
    many = len(values)
    spread = np.std(values, ddof=1) / many**0.5 if many > 1 else float("nan")
    cells = (f"{np.mean(values):.5f}", f"{spread:.5f}", many)
    beside = f"{np.mean(np.subtract(values, base)):+.5f}"
    line = (name, method, bits, METRIC[DATA[name]], *cells, beside)
    return dict(zip(FIELDS, line, strict=True))


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    size = Size(rounds=options.rounds, leaves=options.leaves, rows=options.rows, rate=options.rate)
    rows: list[dict[str, Any]] = []

    def add(*cells: Any) -> None:
        rows.append(row(*cells))
        print("  ".join(str(rows[-1][field]) for field in FIELDS), flush=True)
        # After every row, so that a stopped run leaves what it has.
        train.write_table(rows, options.out)

    for name in options.data:
        base: list[float] = []
        for method in methods(options.bits):
            values = [boosted(name, seed, method, size) for seed in range(options.seeds)]
            base = base or values
            bits = "32" if method.bits is None else str(method.bits)
            add(name, method.name, bits, values, base)
        values = [library(name, seed, size) for seed in range(options.seeds)]
        add(name, "scikit-learn", "64", values, base)
    print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"gbdt: {error}")
