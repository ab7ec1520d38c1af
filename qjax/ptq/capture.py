"""Runs a trained model over batches and sums up what its contractions were given."""

import threading
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from qjax._typing import PyTree
from qjax.ptq.observing import observing
from qjax.ptq.statistics import Statistics, Summary
from qjax.recipes import Recipe

Model = Callable[..., Any]


class _Seen:
    """What the observers of one pass told; they may tell from several threads."""

    def __init__(self):
        self.lock = threading.Lock()
        self.operands: dict[str, dict[str, np.ndarray]] = {}

    def __call__(self, place: str, seen: dict[str, Any]) -> None:
        with self.lock:
            so_far = self.operands.setdefault(place, {})
            for name, value in seen.items():
                value = np.asarray(value)
                value = value if name == "channels" else value.astype(np.float64)
                so_far[name] = _joined(name, so_far.get(name), value)


def _joined(name: str, before: Any, now: np.ndarray) -> np.ndarray:
    if before is None:
        return now
    if name != "channels":
        return before + now
    if before.shape != now.shape:  # One layer, called on operands of two sizes.
        before, now = (np.max(x, initial=0, keepdims=True) for x in (before, now))
    return np.maximum(before, now)


def capture(
    observed: Callable[[Recipe], Model],
    batches: Iterable[tuple[Any, ...]],
    *,
    path: str = ".*",
    bins: int = 2048,
) -> Statistics:
    """Sums up the operands of a model; `qjax.capture` is the door to this.

    Two passes: the first finds the largest magnitudes, the second fills histograms up to them.

    Args:
      observed: Gives the model that computes by a recipe, as a function of a batch's inputs.
      batches: Tuples of inputs; they are read twice.
      path: Regular expression that the path of an observed contraction matches as a whole.
      bins: Number of bins of the histograms.

    Raises:
      ValueError: If there is no batch, or nothing matches `path`.
    """
    batches = list(batches)
    if not batches:
        raise ValueError("`capture` takes at least one batch, but none came. Give some inputs.")
    first = _pass(observed, batches, path, {}, bins)
    bounds = {place: float(np.max(seen["channels"])) for place, seen in first.items()}
    second = _pass(observed, batches, path, bounds, bins)
    return Statistics(
        {
            place: Summary(
                channels=seen["channels"],
                histogram=second[place]["histogram"].astype(np.int64),
                squares=seen["squares"],
                count=seen["count"],
            )
            for place, seen in sorted(first.items())
        }
    )


def _pass(
    observed: Callable[[Recipe], Model],
    batches: list[tuple[Any, ...]],
    path: str,
    bounds: dict[str, float],
    bins: int,
) -> dict[str, dict[str, np.ndarray]]:
    seen = _Seen()
    run: Callable[..., PyTree] = jax.jit(observed(observing(seen, path, bounds, bins)))
    for batch in batches:
        jax.block_until_ready(run(*batch))
    jax.effects_barrier()
    return seen.operands
