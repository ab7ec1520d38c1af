"""What a claim is, and how its verdict is computed from the figures of its arms.

Every arm is run with the same seeds, so two arms are compared by their differences seed by
seed. Nothing is trained here, and no verdict is ever written by hand.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

Verdict = Literal["holds", "does not hold", "within noise"]
Figures = Mapping[str, Sequence[float]]
CONFIDENCE = 0.95

# How well the published figure is known: what was read for it.
Evidence = Literal["paper", "abstract", "authors' code", "secondary source", "not verified"]


@dataclasses.dataclass(frozen=True)
class Difference:
    """The mean of paired differences of two arms, with its Student interval.

    Attributes:
      mean: Mean over seeds of the first arm's figure minus the second's; infinite where one
        of them diverged.
      error: Standard error of `mean`; NaN where a run diverged.
      low, high: Ends of the 95 % interval.
    """

    mean: float
    error: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Better:
    """Claims that `better` does better than `worse`, by more than `by`: a lower loss, say.

    Attributes:
      better: An arm.
      worse: An arm.
      by: The least difference that the claim asks for.
    """

    better: str
    worse: str
    by: float = 0.0

    def verdict(self, difference: Difference) -> Verdict:
        if difference.high < -self.by:
            return "holds"
        return "does not hold" if difference.low > -self.by else "within noise"

    @property
    def arms(self) -> tuple[str, str]:
        return self.better, self.worse

    def __str__(self) -> str:
        margin = f" by more than {self.by:g}" if self.by else ""
        return f"{self.better} better than {self.worse}{margin}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Near:
    """Claims that `arm` is worse than `reference` by at most `margin`.

    Attributes:
      arm: An arm.
      reference: An arm.
      margin: The largest loss of quality, in the figure's unit.
    """

    arm: str
    reference: str
    margin: float

    def verdict(self, difference: Difference) -> Verdict:
        if difference.high <= self.margin:
            return "holds"
        return "does not hold" if difference.low > self.margin else "within noise"

    @property
    def arms(self) -> tuple[str, str]:
        return self.arm, self.reference

    def __str__(self) -> str:
        return f"{self.arm} at most {self.margin:g} worse than {self.reference}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """One published claim and the small experiment that tries it.

    Attributes:
      name: Of the claim, for `--only`.
      method: Name of the method's file in `qjax.recipes` (or of the example that holds it).
      says: What the paper claims, in a sentence.
      published: The published figure behind it.
      evidence: How well that figure is known.
      setting: What is trained here, on what, for how long.
      figure: What is compared, with its unit.
      run: Maps seeds to the figures of each arm, one per seed; NaN or infinity: it diverged.
      expects: The comparisons that make up the claim.
      lower_is_better: Whether a lower figure is better.
      note: What a reader must know to judge the outcome.
    """

    name: str
    method: str
    says: str
    published: str
    evidence: Evidence
    setting: str
    figure: str
    run: Callable[[Sequence[int]], Figures]
    expects: tuple[Better | Near, ...]
    lower_is_better: bool = True
    note: str = ""

    def differences(self, figures: Figures) -> list[tuple[Better | Near, Difference, Verdict]]:
        """Each comparison with what came out and its verdict."""
        sign = 1.0 if self.lower_is_better else -1.0
        found = []
        for expected in self.expects:
            one, other = (sign * np.asarray(figures[arm], np.float64) for arm in expected.arms)
            difference = paired(one, other)
            found.append((expected, difference, expected.verdict(difference)))
        return found

    def verdict(self, figures: Figures) -> Verdict:
        """Of the whole claim: it holds where every comparison does."""
        verdicts = [verdict for _, _, verdict in self.differences(figures)]
        if "does not hold" in verdicts:
            return "does not hold"
        return "within noise" if "within noise" in verdicts else "holds"


def paired(one: np.ndarray, other: np.ndarray) -> Difference:
    """Compares two arms seed by seed, lower being better; a run that diverged is infinitely bad.

    Where runs diverged there is no standard error. If only one arm has such runs and every
    other seed agrees that it is worse, it is worse without bound; else nothing is known.

    Raises:
      ValueError: If there are fewer than three seeds, or the arms have different numbers.
    """
    if one.shape != other.shape or one.size < 3:
        raise ValueError(
            f"Arms are compared over at least 3 common seeds, but {one.size} and {other.size} "
            "figures came. Run every arm with the same seeds."
        )
    bad = [~np.isfinite(values) for values in (one, other)]
    if bad[0].any() or bad[1].any():
        if bad[0].any() and bad[1].any():
            return Difference(math.nan, math.nan, -math.inf, math.inf)
        worse = 1.0 if bad[0].any() else -1.0
        finite = ~(bad[0] | bad[1])
        if np.all(worse * (one - other)[finite] > 0):
            return Difference(worse * math.inf, math.nan, worse * math.inf, worse * math.inf)
        return Difference(worse * math.inf, math.nan, -math.inf, math.inf)
    from scipy import stats

    differences = one - other
    error = float(differences.std(ddof=1) / math.sqrt(differences.size))
    mean = float(differences.mean())
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, differences.size - 1)) * error
    return Difference(mean, error, mean - reach, mean + reach)
