"""Builders of tables: quantiles, dynamic exponents, companding, learned and special values."""

import numpy as np

from qjax.formats._base import Format
from qjax.formats._codebook import Codebook


def normal_float(bits: int = 4) -> Codebook:
    """Returns quantiles of the normal distribution, scaled to [-1, 1], with an exact zero.

    Half the codes (less one) are negative, half are positive, as in QLoRA (Dettmers et al. 2023,
    arXiv:2305.14314, appendix E): equal steps of probability up to the tail 1 - 1/2 (1/32 + 1/30)
    in four bits, and the corresponding tail at other widths.
    """
    from scipy.special import ndtri

    half = 1 << (bits - 1)
    tail = 1 - (1 / (4 * half) + 1 / (4 * half - 2)) / 2
    positive = ndtri(np.linspace(tail, 0.5, half + 1)[:-1])
    negative = -ndtri(np.linspace(tail, 0.5, half)[:-1])
    values = np.sort(np.concatenate([positive, [0.0], negative])) / positive.max()
    return Codebook(tuple(values.tolist()), label=f"nf{bits}")


def dynamic_exponent(bits: int = 8) -> Codebook:
    """Returns the signed dynamic data type: decimal exponents with linear fractions.

    Each binade-like decade holds the middles of equal parts of [0.1, 1], one more bit of them per
    decade up (Dettmers et al. 2021, arXiv:2110.02861).
    """
    exponents = bits - 1
    values = [0.0, 1.0]
    for i in range(exponents):
        edges = np.linspace(0.1, 1.0, (1 << i) + 1)
        decade = 10.0 ** (i - exponents + 1) * (edges[:-1] + edges[1:]) / 2
        values += [*decade, *-decade]
    return Codebook(tuple(sorted(float(np.float32(v)) for v in values)), label=f"dynamic{bits}")


def power_law(bits: int, power: float) -> Codebook:
    """Returns values `sign(k) |k / n|**(1 / power)`: companding by `|x|**power`.

    Rounding is to the nearest after companding (NUPES, Yvinec et al. 2023, arXiv:2308.05600).

    Args:
      bits: Width of a code; `n = 2**(bits - 1) - 1`.
      power: The companding exponent; 1 gives integers, less than 1 more values near zero.
    """
    if power <= 0:
        raise ValueError(f"`power_law` was asked for power={power}. Give a positive exponent.")
    n = (1 << (bits - 1)) - 1

    def expand(k: np.ndarray) -> np.ndarray:
        return np.sign(k) * np.abs(k / n) ** (1 / power)

    values = expand(np.arange(-n, n + 1))
    bounds = expand(np.arange(-n, n) + 0.5).astype(np.float32)
    label = f"power{bits}_{power:g}"
    return Codebook(tuple(values.tolist()), label=label, bounds=tuple(bounds.tolist()))


def lloyd_max(samples: np.ndarray, size: int, steps: int = 100) -> Codebook:
    """Returns the table of `size` values with the least mean squared error on `samples`.

    Lloyd's iteration in one dimension (k-means) from quantiles, until nothing moves.

    Args:
      samples: Any array of numbers, with at least `size` different values.
      size: Number of table entries.
      steps: At most so many iterations.
    """
    data = np.sort(np.asarray(samples, np.float64).ravel())
    if len(np.unique(data)) < size:
        raise ValueError(
            f"`lloyd_max` was asked for {size} values from samples with "
            f"{len(np.unique(data))} different ones. Give more samples or ask for fewer values."
        )
    sums = np.concatenate([[0.0], np.cumsum(data)])
    centers = np.unique(np.quantile(data, (np.arange(size) + 0.5) / size))
    if len(centers) < size:
        centers = np.unique(data)[np.linspace(0, len(np.unique(data)) - 1, size).astype(int)]
    for _ in range(steps):
        edges = np.searchsorted(data, (centers[1:] + centers[:-1]) / 2)
        edges = np.concatenate([[0], edges, [len(data)]])
        counts = np.diff(edges)
        means = np.diff(sums[edges]) / np.maximum(counts, 1)
        moved = np.where(counts > 0, means, centers)
        if np.array_equal(moved, centers):
            break
        centers = np.sort(moved)
    return Codebook(tuple(centers.tolist()), label=f"lloyd{size}")


def with_special(format: Format, *specials: float) -> Codebook:
    """Returns the values of `format` and some special ones, as BitMoD adds to FP3 and FP4.

    References:
      BitMoD: Chen et al. 2024, arXiv:2411.11745 (FP3 with 3 or 6, FP4 with 5 or 8, either sign).
    """
    values = sorted({*format.values().tolist(), *(float(s) for s in specials)})
    label = f"{format.name}+" + ",".join(f"{s:g}" for s in specials)
    return Codebook(tuple(values), label=label)


def k_hot(bits: int, ones: int, *, signed: bool = True) -> Codebook:
    """Returns the integers whose magnitude has at most `ones` one-bits: products are few shifts.

    Rounding toward zero keeps the most significant ones; to nearest is closer (7 becomes 8).

    Args:
      bits: Width of the integers, sign included, at most 16.
      ones: Largest number of ones, at least 1.
      signed: Whether there are negative ones.

    References:
      QFX, "Trainable fixed-point quantization", 2024, arXiv:2401.17544.
    """
    if not 1 + signed <= bits <= 16 or ones < 1:
        raise ValueError(
            f"`k_hot` was asked for bits={bits} and ones={ones}. Give {1 + signed} to 16 bits and "
            "at least one one."
        )
    sizes = [n for n in range(1 << (bits - signed)) if n.bit_count() <= ones]
    below = [-n for n in reversed(sizes) if n] if signed else []
    return Codebook((*below, *sizes), label=f"{'' if signed else 'u'}hot{ones}of{bits}")
