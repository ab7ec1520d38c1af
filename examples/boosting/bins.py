"""Features as bins: at most 255 intervals per feature, cut at quantiles. On the host, once."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Bins:
    """Where each feature is cut.

    Attributes:
      edges: For each of F features its increasing cuts; a value on a cut goes to the left.
    """

    edges: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, x: np.ndarray, most: int = 255) -> "Bins":
        """Cuts midway between values, or at quantiles where there are more than `most` values.

        Args:
          x: [N, F] finite numbers.
          most: Largest number of bins, 2 to 255.

        Raises:
          ValueError: If `x` is no table of finite numbers or `most` is out of range.
        """
        if x.ndim != 2 or not np.all(np.isfinite(x)):
            raise ValueError(
                f"`x` must be a table [rows, features] of finite numbers, but has shape {x.shape} "
                f"and {np.sum(~np.isfinite(x))} values that are not. Fill or drop those."
            )
        if not 2 <= most <= 255:
            raise ValueError(
                f"`most` must be 2 to 255 bins, but is {most}. Bins are stored as bytes."
            )
        return cls(tuple(_cuts(column, most) for column in x.T))

    @property
    def count(self) -> int:
        """Bins of the feature that has most."""
        return max(len(cuts) for cuts in self.edges) + 1

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Returns the bin of each value as uint8 [F, N]: features first, as trees read them."""
        columns = [np.searchsorted(cuts, column) for cuts, column in zip(self.edges, x.T)]
        return np.stack(columns).astype(np.uint8)


def _cuts(column: np.ndarray, most: int) -> np.ndarray:
    values = np.unique(column)
    if len(values) <= most:
        return (values[1:] + values[:-1]) / 2
    inner = np.linspace(0, 1, most + 1)[1:-1]
    return np.unique(np.quantile(column, inner, method="midpoint"))
