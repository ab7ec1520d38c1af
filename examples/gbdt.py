"""Boosts trees on gradients of 2 to 5 bits, beside float gradients and scikit-learn.

    python examples/gbdt.py --data breast_cancer digits --bits 2 3 4 5

Gradients and second derivatives become small integers by stochastic rounding, histograms are exact
sums of integers, and the values of leaves are refitted from float derivatives (Shi et al. 2022,
"Quantized training of gradient boosting decision trees", arXiv 2207.09682). All runs of a seed see
the same rows; the table gives means over seeds with their standard errors.
"""

import argparse
import csv
import dataclasses
import pathlib
import sys
from typing import Any

import boosting
import jax
import jax.numpy as jnp
import numpy as np
from boosting.trees import Shape

from qjax.rounding import NearestAway, Rounding, Stochastic

FIELDS = ("data", "method", "bits", "metric", "mean", "standard_error", "seeds", "beside_float")
DATA = {"breast_cancer": "logistic", "digits": "softmax", "wine": "softmax", "diabetes": "squared"}
METRIC = {"logistic": "AUC", "softmax": "accuracy", "squared": "R2"}


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to treat gradients; bits None are floats."""

    name: str
    bits: int | None
    rounding: Rounding = Stochastic()
    refit: bool = True


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
    return options


def split(name: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows and targets to train on, then those to test on: a quarter, drawn by the seed."""
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    classes = None if DATA[name] == "squared" else y
    parts = train_test_split(x, y, test_size=0.25, random_state=seed, stratify=classes)
    return parts[0], parts[2], parts[1], parts[3]


def score(loss: str, target: np.ndarray, scores: np.ndarray) -> float:
    """AUC, accuracy or R2 of scores [classes, N]."""
    from sklearn import metrics

    if loss == "logistic":
        return float(metrics.roc_auc_score(target, scores[0]))
    if loss == "softmax":
        return float(np.mean(scores.argmax(0) == target))
    return float(metrics.r2_score(target, scores[0]))


def boosted(name: str, seed: int, method: Method, options: argparse.Namespace) -> float:
    """Trains and tests one forest."""
    x, y, test_x, test_y = split(name, seed)
    loss = DATA[name]
    bins = boosting.Bins.of(x)
    # Targets of the squared error are standardized, so that rates mean the same for all tables.
    target = (y - y.mean()) / y.std() if loss == "squared" else y
    chosen = boosting.Options(
        loss=loss,
        classes=len(np.unique(y)) if loss == "softmax" else 1,
        bits=method.bits,
        rounding=method.rounding,
        refit=method.refit,
        rounds=options.rounds,
        rate=options.rate,
        shape=Shape(leaves=options.leaves, rows=options.rows, bins=bins.count),
    )
    dtype = jnp.float32 if loss == "squared" else jnp.int32
    forest = boosting.fit(
        jnp.asarray(bins(x)), jnp.asarray(target, dtype), jax.random.key(seed), options=chosen
    )
    scores = np.asarray(boosting.predict(forest, jnp.asarray(bins(test_x))))
    return score(loss, test_y, scores * y.std() + y.mean() if loss == "squared" else scores)


def library(name: str, seed: int, options: argparse.Namespace) -> float:
    """Trains and tests scikit-learn's boosting with the same limits."""
    from sklearn import ensemble

    x, y, test_x, test_y = split(name, seed)
    loss = DATA[name]
    kind = "Regressor" if loss == "squared" else "Classifier"
    model = getattr(ensemble, f"HistGradientBoosting{kind}")(
        max_iter=options.rounds,
        max_leaf_nodes=options.leaves,
        min_samples_leaf=options.rows,
        learning_rate=options.rate,
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
    rows: list[dict[str, Any]] = []
    for name in options.data:
        base: list[float] = []
        for method in methods(options.bits):
            values = [boosted(name, seed, method, options) for seed in range(options.seeds)]
            base = base or values
            bits = "32" if method.bits is None else str(method.bits)
            rows.append(row(name, method.name, bits, values, base))
            print("  ".join(str(rows[-1][field]) for field in FIELDS), flush=True)
        values = [library(name, seed, options) for seed in range(options.seeds)]
        rows.append(row(name, "scikit-learn", "64", values, base))
        print("  ".join(str(rows[-1][field]) for field in FIELDS), flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"gbdt: {error}")
