"""What was seen of a model's operands, and the static scales that follow from it."""

import dataclasses
import re
from typing import Any

import jax
import numpy as np

from qjax import calibration
from qjax.contraction import Gemm, Policy
from qjax.quantizer import Quantizer
from qjax.recipes import Recipe, Rule


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Summary:
    """What was seen of one operand of one contraction, over all calls.

    Attributes:
      channels: (K,) float32: largest magnitude for each index of the contracted axes,
        flattened in order.
      histogram: (bins,) int64: how many magnitudes lie in each of as many equal parts of
        [0, absmax].
      squares: Sum of the squares of all elements.
      count: Number of elements.
    """

    channels: Any
    histogram: Any
    squares: Any
    count: Any

    @property
    def absmax(self) -> float:
        """The largest magnitude."""
        return float(np.max(self.channels, initial=0.0))

    @property
    def rms(self) -> float:
        """The root of the mean square."""
        return float(np.sqrt(self.squares / max(1, self.count)))

    def percentile(self, percent: float) -> float:
        """A bound on `percent` of 100 of the magnitudes, to within one bin.

        Raises:
          ValueError: If `percent` is not above 0 and at most 100.
        """
        if not 0 < percent <= 100:
            raise ValueError(
                f"`percent` must be above 0 and at most 100, but is {percent}. 100 is the largest "
                "magnitude, 99.9 leaves out one in a thousand."
            )
        if percent == 100:
            return self.absmax
        counts = np.cumsum(self.histogram)
        place = int(np.searchsorted(counts, percent / 100 * counts[-1]))
        return self.absmax * (place + 1) / len(self.histogram)

    def merge(self, other: "Summary") -> "Summary":
        """The summary of both together; their histograms must have the same bound.

        Raises:
          ValueError: If the bounds differ.
        """
        if self.absmax != other.absmax:
            raise ValueError(
                f"`merge` was asked to join histograms up to {self.absmax} and {other.absmax}. "
                "Capture both in one call, over the batches of both."
            )
        return Summary(
            channels=np.maximum(self.channels, other.channels),
            histogram=self.histogram + other.histogram,
            squares=self.squares + other.squares,
            count=self.count + other.count,
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Statistics:
    """Summaries of a model's operands.

    Attributes:
      operands: By path and operand, such as "decoder/mlp/wi/lhs"; in contractions with a
        weight this is "rhs".
    """

    operands: dict[str, Summary]

    def __getitem__(self, name: str) -> Summary:
        return self.operands[name]

    def static(self, recipe: Recipe, *, percent: float = 100.0) -> Recipe:
        """The recipe with the scales of activations fixed beforehand.

        In every contraction that was seen, the left operand of the forward leg is bounded by
        what was seen there instead of by its own values. Where a type's scales are quantized
        themselves, that bounds the outermost scale; the inner ones follow the values.

        Args:
          recipe: The recipe; contractions that were not seen keep its rules.
          percent: Of the magnitudes, how many the bound holds; 100 is the largest.
        """
        own: list[Rule] = []
        split: set[int] = set()
        for name, summary in self.operands.items():
            path, _, side = name.rpartition("/")
            if side != "lhs" or not summary.absmax:
                continue
            for n, rule in _reached(recipe, path):
                policy = _bounded(rule.policy, summary.percentile(percent))
                here = dataclasses.replace(rule, path=re.escape(path), policy=policy)
                own.append(dataclasses.replace(here, name=str(rule), optional=True))
                split.add(n)
        # A rule may have nothing left that was not seen.
        rest = [
            dataclasses.replace(rule, optional=rule.optional or n in split)
            for n, rule in enumerate(recipe.rules)
        ]
        return dataclasses.replace(recipe, rules=(*own, *rest))


def _reached(recipe: Recipe, path: str) -> list[tuple[int, Rule]]:
    """The rules that decide about the operations at a path."""
    found = []
    for n, rule in enumerate(recipe.rules):
        if re.fullmatch(rule.path, path) is not None:
            found.append((n, rule))
            if rule.ops is None:
                break  # It covers all operations: the rules below are not reached.
    return found


def _bounded(policy: Policy, bound: float) -> Policy:
    quantizer = policy.fwd.lhs
    if not isinstance(quantizer, Quantizer) or quantizer.qtype.scale is None:
        return policy
    fwd: Gemm = dataclasses.replace(policy.fwd, lhs=_fixed(quantizer, bound))
    return dataclasses.replace(policy, fwd=fwd)


def _fixed(quantizer: Quantizer, bound: float) -> Quantizer:
    """The quantizer with its outermost scale given by `bound`."""
    fixed, inner = calibration.Fixed(bound), quantizer.scale
    if isinstance(inner, Quantizer) and inner.qtype.scale is not None:
        return dataclasses.replace(quantizer, scale=dataclasses.replace(inner, calibration=fixed))
    return dataclasses.replace(quantizer, calibration=fixed)
