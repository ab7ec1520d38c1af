"""What a plan may spend and what it must respect, as limits on N and D.

With a training cost of k per parameter and token, and T tokens to be served at k_serve each,
``k N D + k_serve N T = C``: the more parameters, the fewer tokens are left to train on.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

#: Sizes that are searched where no constraint says otherwise.
_SMALLEST, _LARGEST = 1.0, 1e18
LIMITS = ("N", "D", "memory")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A budget with its limits.

    Args:
        compute: what may be spent, in FLOP of 16-bit products; a number, or a column (r, 1).
        served: tokens that will be served, T.
        limits: (lowest, highest) for "N" (parameters), "D" (tokens) and "memory" (bytes of stored
            parameters); None for an open side.
    """

    compute: Any
    served: float = 0.0
    limits: Mapping[str, tuple[float | None, float | None]] = field(
        default_factory=dict, hash=False
    )

    def __post_init__(self):
        if not (np.isfinite(self.compute).all() and np.all(np.asarray(self.compute) > 0)):
            shown = np.ravel(self.compute)[0]
            raise ValueError(f"compute must be a positive number of FLOP, got {shown:g}.")
        if not (math.isfinite(self.served) and self.served >= 0):
            raise ValueError(f"inference_tokens must not be negative, got {self.served}.")
        for name, pair in self.limits.items():
            if name not in LIMITS:
                raise ValueError(f"constraints know {LIMITS}, got {name!r}.")
            low, high = pair
            ordered = low is None or high is None or low <= high
            positive = all(v is None or v > 0 for v in pair)
            if not ordered or not positive:
                raise ValueError(f"constraint {name}={tuple(pair)} must be positive, lower first.")

    def limit(self, name: str) -> tuple[float, float]:
        """Returns (lowest, highest) of a limit, 0 and infinity where open."""
        low, high = self.limits.get(name, (None, None))
        return (0.0 if low is None else low), (math.inf if high is None else high)

    def sizes(self, k, k_serve, stored: float | None):
        """Returns the smallest and the largest N that can be paid for.

        Args:
            k: training cost of one parameter and token, a scalar or an array.
            k_serve: serving cost of one parameter and token, likewise.
            stored: bits of one stored parameter; None where unknown.

        Raises:
            ValueError: memory is limited, and the stored bits are unknown.
        """
        low, high = self.limit("N")
        fewest = max(self.limit("D")[0], 1.0)
        affordable = self.compute / (k * fewest + k_serve * self.served)
        memory = self.limit("memory")[1]
        if math.isfinite(memory):
            if stored is None:
                raise ValueError("memory is limited, and the bits of a stored parameter unknown.")
            high = min(high, 8 * memory / stored)
        top = np.minimum(min(high, _LARGEST), affordable)
        return np.full_like(np.asarray(top, float), max(low, _SMALLEST)), top

    def data(self, N, k, k_serve):
        """Returns the D that the budget leaves for N parameters, within the limit on D."""
        left = (self.compute / N - k_serve * self.served) / k
        return np.clip(left, 1.0, self.limit("D")[1])

    def cost(self, N, D, k, k_serve):
        """Returns what training N parameters on D tokens and serving them costs."""
        return k * N * D + k_serve * N * self.served
