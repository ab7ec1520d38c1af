"""How well a number format represents Gaussian data: GMSE, the law-free measure of capacity.

GMSE is the mean squared error of rounding N(0, 1) data to the nearest point of a grid whose scale
is chosen best (Panferov et al. 2025, arXiv:2506.01863). The laws that use it are in
``scaling.laws.capacity``.
"""

import math
from functools import lru_cache
from typing import Any

import numpy as np

#: Mantissa bits up to which the grid of a wide float is summed point by point.
_EXACT = 8
_GOLDEN = (math.sqrt(5) - 1) / 2


def grid_error(levels: np.ndarray) -> float:
    """Returns the mean squared error of N(0, 1) rounded to the nearest of ``levels``.

    Args:
        levels: grid points (k,), sorted.
    """
    from scipy.special import ndtr

    edges = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])
    density = np.exp(-(edges**2) / 2) / math.sqrt(2 * math.pi)
    edge_density = (
        np.where(np.isinf(edges), 0.0, np.nan_to_num(edges, posinf=0, neginf=0)) * density
    )
    mass = np.diff(ndtr(edges))
    first = -np.diff(density)
    second = mass - np.diff(edge_density)
    return float((second - 2 * levels * first + levels**2 * mass).sum())


def best_scale_error(levels: np.ndarray) -> tuple[float, float]:
    """Returns the scale that minimizes ``grid_error(scale * levels)``, and that error."""
    top = float(np.abs(levels).max())
    lo, hi = math.log(0.2 / top), math.log(12.0 / top)
    a, b = hi - _GOLDEN * (hi - lo), lo + _GOLDEN * (hi - lo)
    fa, fb = grid_error(math.exp(a) * levels), grid_error(math.exp(b) * levels)
    for _ in range(60):
        if fa < fb:
            hi, b, fb = b, a, fa
            a = hi - _GOLDEN * (hi - lo)
            fa = grid_error(math.exp(a) * levels)
        else:
            lo, a, fa = a, b, fb
            b = lo + _GOLDEN * (hi - lo)
            fb = grid_error(math.exp(b) * levels)
    return math.exp((lo + hi) / 2), min(fa, fb)


@lru_cache
def gmse_uniform(bits: int) -> float:
    """Returns the GMSE of the best symmetric mid-rise uniform grid of 2^bits levels.

    Args:
        bits: bits per element, 1 to 20.
    """
    if bits not in range(1, 21):
        raise ValueError(f"gmse_uniform knows 1 to 20 bits, got {bits!r}.")
    if bits <= 12:
        half = 2 ** (bits - 1)
        return best_scale_error(np.arange(-half, half) + 0.5)[1]
    return _fine_uniform(bits)


def _fine_uniform(bits: int) -> float:
    """The same for many levels, where sums over cells would cancel: s^2/12 plus the overload."""
    from scipy.special import log_ndtr

    top = np.linspace(3.0, 12.0, 20001)
    step = top / 2 ** (bits - 1)
    tail = np.exp(log_ndtr(-top))
    edge = top - step / 2
    density = np.exp(-(top**2) / 2) / math.sqrt(2 * math.pi)
    overload = 2 * ((1 + edge**2) * tail + (top - 2 * edge) * density)
    return float((step**2 / 12 * (1 - 2 * tail) + overload).min())


@lru_cache
def gmse_float(exponent: int, mantissa: int) -> float:
    """Returns the GMSE of the best-scaled floating-point grid, subnormals included.

    Args:
        exponent: exponent bits, all codes used for numbers.
        mantissa: mantissa bits.
    """
    if exponent >= 4 and mantissa > _EXACT:
        # With so many binades only the step within one is left, and each bit halves it.
        return gmse_float(exponent, _EXACT) * 4.0 ** (_EXACT - mantissa)
    if exponent == 0:
        steps = np.arange(2**mantissa)
    else:
        fraction = np.arange(2**mantissa) / 2**mantissa
        binades = min(2**exponent - 1, 64)
        normal = [(1 + fraction) * 2.0**-k for k in range(binades)]
        steps = np.concatenate([fraction * 2.0 ** -(binades - 1), *normal[::-1]])
    positive = np.unique(steps)
    levels = np.concatenate([-positive[:0:-1], positive])
    return best_scale_error(levels)[1]


def gmse_of_format(fmt: Any) -> float:
    """Returns the GMSE of a parsed format: integers as uniform grids, floats, ternary, binary."""
    if fmt.E is None:
        levels = round(2**fmt.bits)
        return best_scale_error(np.arange(levels) - (levels - 1) / 2)[1]
    if fmt.E == 0:
        return gmse_uniform(int(fmt.bits))
    return gmse_float(fmt.E, fmt.M)
