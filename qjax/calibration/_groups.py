"""How channels are grouped under common bounds: by powers of two, and the best there is.

The quantizer makes scales of power-of-two groups by itself (`qtypes.shift_groups`); here are the
groups as such, and the dynamic program to measure them by.
"""

import numpy as np
import numpy.typing as npt


def power_groups(ranges: npt.ArrayLike, groups: int) -> np.ndarray:
    """Returns the group of each channel: the largest `j < groups` with `r * 2**-j >= r_c`.

    `r` is the largest range. Scales fall by half from group to group, so that the best group of a
    channel among these is its own maximum alone and no search is needed.

    Args:
      ranges: Largest magnitudes of the channels, non-negative, of shape (C,).
      groups: Number of groups, at least 1.

    References:
      ShiftQuant, arXiv:2411.10948.
    """
    sizes = _checked(ranges, groups)
    top = sizes.max(initial=0)
    group = np.full(sizes.shape, groups - 1)
    for j in reversed(range(groups - 1)):
        group[np.ldexp(top, -j - 1) < sizes] = j
    return group


def best_groups(ranges: npt.ArrayLike, groups: int) -> np.ndarray:
    """Returns the group of each channel that minimises the sum of squared group ranges.

    The noise of rounding to evenly spaced values is proportional to the square of the range that
    a channel's group has, so the sum over channels bounds the variance of a quantized dot product.
    Groups are runs of the channels sorted by range; a dynamic program over their ends finds the
    optimum in `O(groups * C**2)`.

    Args:
      ranges: Largest magnitudes of the channels, non-negative, of shape (C,).
      groups: Number of groups, at least 1.
    """
    sizes = _checked(ranges, groups)
    order = np.argsort(-sizes, kind="stable")
    square = sizes[order].astype(np.float64) ** 2
    count = len(square)
    # cost[i, k]: the least sum of channels i and after, in at most k groups.
    cost = np.full((count + 1, groups + 1), np.inf)
    cost[count] = 0
    cut = np.zeros((count + 1, groups + 1), int)
    for k in range(1, groups + 1):
        for i in range(count):
            ends = np.arange(i + 1, count + 1)
            sums = square[i] * (ends - i) + cost[ends, k - 1]
            cut[i, k] = ends[np.argmin(sums)]
            cost[i, k] = sums.min()
    result, start = np.zeros(count, int), 0
    for j in range(groups):
        if start == count:
            break
        stop = cut[start, groups - j]
        result[order[start:stop]] = j
        start = stop
    return result


def _checked(ranges: npt.ArrayLike, groups: int) -> np.ndarray:
    sizes = np.asarray(ranges)
    if sizes.ndim != 1 or groups < 1 or not (np.isfinite(sizes) & (sizes >= 0)).all():
        raise ValueError(
            f"Channels were to be put into {groups} groups by ranges of shape {sizes.shape}. "
            "Give one finite, non-negative range per channel, and at least one group."
        )
    return sizes
