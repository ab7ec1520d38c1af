"""Bits by layer: the allocation under which every layer adds the same loss.

Minimizes sum_i c_i 2^(-2 R_i) for a given mean of R_i. Without limits the solution is
R_i = mean + (log2 c_i - mean log2 c) / 2; limits are met by clipping and solving again for the rest
(reverse water-filling), integers by giving one bit at a time to the layer that gains most.
"""

import heapq

import numpy as np


def allocate_bits(
    sensitivity,
    mean_bits: float,
    *,
    sizes=None,
    lowest: float = 0.0,
    highest: float = 16.0,
    integer: bool = False,
) -> np.ndarray:
    """Returns bits (n,) per component.

    Args:
        sensitivity: c (n,), the loss of one component per unit of its squared error; positive.
        mean_bits: bits per element over all components.
        sizes: elements (n,) of each component; equal by default.
        lowest: fewest bits of a component.
        highest: most bits of a component.
        integer: whether bits are whole; then the mean may be missed by less than one component.

    Raises:
        ValueError: a sensitivity is not positive, or the mean lies outside the limits.
    """
    c = np.asarray(sensitivity, float)
    w = np.ones_like(c) if sizes is None else np.asarray(sizes, float)
    if c.ndim != 1 or not len(c) or (c <= 0).any() or (w <= 0).any() or w.shape != c.shape:
        raise ValueError("sensitivity and sizes must be positive vectors of one length.")
    if not lowest <= mean_bits <= highest:
        raise ValueError(f"mean_bits={mean_bits} lies outside of [{lowest}, {highest}].")
    if integer:
        return _greedy(c, w, mean_bits, int(np.ceil(lowest)), int(np.floor(highest)))
    # A component's curvature is its sensitivity per element.
    gain = np.log2(c / w) / 2
    low, high = lowest - gain.max() - 1, highest - gain.min() + 1
    for _ in range(200):
        level = (low + high) / 2
        bits = np.clip(gain + level, lowest, highest)
        low, high = (level, high) if (w * bits).sum() < mean_bits * w.sum() else (low, level)
    return np.clip(gain + (low + high) / 2, lowest, highest)


def _greedy(c, w, mean_bits, lowest, highest) -> np.ndarray:
    bits = np.full(len(c), lowest, float)
    left = mean_bits * w.sum() - (w * bits).sum()

    def entry(i: int) -> tuple[float, int]:
        # The loss removed by one more bit, per element it costs.
        return (-0.75 * c[i] * 4.0 ** -bits[i] / w[i], i)

    heap = [entry(i) for i in range(len(c)) if lowest < highest]
    heapq.heapify(heap)
    while heap:
        _, i = heapq.heappop(heap)
        if w[i] > left + 1e-9:
            continue
        bits[i] += 1
        left -= w[i]
        if bits[i] < highest:
            heapq.heappush(heap, entry(i))
    return bits
