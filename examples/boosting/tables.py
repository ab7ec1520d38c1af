"""Forests on scikit-learn's own tables: which target, which figure, one run.

Everything that is compared on a table goes through `split`, so it sees the same rows.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from qjax.rounding import Rounding, Stochastic

from .bins import Bins
from .boost import Options, fit, predict
from .trees import Shape

DATA = {"breast_cancer": "logistic", "digits": "softmax", "wine": "softmax", "diabetes": "squared"}
METRIC = {"logistic": "AUC", "softmax": "accuracy", "squared": "R2"}


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to treat gradients; bits None are floats."""

    name: str
    bits: int | None
    rounding: Rounding = Stochastic()
    refit: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """How many trees of how many leaves.

    Attributes:
      rounds: Trees per class.
      leaves: Leaves per tree.
      rows: Least rows of a leaf.
      rate: Learning rate.
    """

    rounds: int = 100
    leaves: int = 31
    rows: int = 20
    rate: float = 0.1


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


def boosted(name: str, seed: int, method: Method, size: Size) -> float:
    """Trains and tests one forest."""
    x, y, test_x, test_y = split(name, seed)
    loss = DATA[name]
    bins = Bins.of(x)
    # Targets of the squared error are standardized, so that rates mean the same for all tables.
    target = (y - y.mean()) / y.std() if loss == "squared" else y
    # Splits of a table into train and test differ in bins; room for the next power of two lets all
    # of them run as one program, and an empty bin is no place for a split.
    room = min(255, 1 << (bins.count - 1).bit_length())
    chosen = Options(
        loss=loss,
        classes=len(np.unique(y)) if loss == "softmax" else 1,
        bits=method.bits,
        rounding=method.rounding,
        refit=method.refit,
        rounds=size.rounds,
        rate=size.rate,
        shape=Shape(leaves=size.leaves, rows=size.rows, bins=room),
    )
    dtype = jnp.float32 if loss == "squared" else jnp.int32
    forest = fit(
        jnp.asarray(bins(x)), jnp.asarray(target, dtype), jax.random.key(seed), options=chosen
    )
    scores = np.asarray(predict(forest, jnp.asarray(bins(test_x))))
    return score(loss, test_y, scores * y.std() + y.mean() if loss == "squared" else scores)
