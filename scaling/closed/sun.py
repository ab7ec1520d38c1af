"""Closed forms of Sun's law: critical data, the best exponent-mantissa split, optimal precision.

P counts all bits of a format, the sign included: P = E + M + 1. Cost is C = k N D P with k = 6/16.
Source: arXiv:2501.02423; every form is tested against brute-force minimization of the law.
"""

import math
from collections.abc import Mapping

import numpy as np

Params = Mapping[str, float]
COST = 6 / 16


def precision_strength(params: Params, E, M):
    """Returns gamma (E + 1/2)^delta (M + 1/2)^nu, which divides the precision term."""
    size = (np.asarray(E, float) + 0.5) ** params["delta"]
    return params["gamma"] * size * (np.asarray(M, float) + 0.5) ** params["nu"]


def critical_data(params: Params, N: float, E: float, M: float, B: float) -> float:
    """Returns the D beyond which more data raise the loss at this format and block size.

    D_crit = [d gamma N^alpha (E+1/2)^delta (M+1/2)^nu / log2 B]^(1/(2 beta)).
    """
    strength = precision_strength(params, E, M)
    inside = params["d"] * strength * N ** params["alpha"] / math.log2(B)
    return float(inside ** (1 / (2 * params["beta"])))


def best_split(params: Params, P: float) -> tuple[float, float]:
    """Returns the real-valued (E, M) that minimize the loss where E + M + 1 = P."""
    share = P / (params["delta"] + params["nu"])
    return params["delta"] * share - 0.5, params["nu"] * share - 0.5


def best_layout(params: Params, P: int) -> tuple[int, int]:
    """Returns the integer (E, M) with E + M + 1 = P that minimize the loss, P bits in all."""
    if P < 1:
        raise ValueError(f"A format needs at least its sign bit, got P={P}.")
    splits = [(E, P - 1 - E) for E in range(P)]
    return max(splits, key=lambda s: float(precision_strength(params, *s)))


def bits_strength(params: Params) -> float:
    """Returns gamma_rho, with which the best split has strength gamma_rho P^(delta + nu)."""
    delta, nu = params["delta"], params["nu"]
    return params["gamma"] * delta**delta * nu**nu / (delta + nu) ** (delta + nu)


def optimal_precision_at_data(params: Params, D: float, B: float) -> float:
    """Returns the compute-optimal P for D tokens, N being free."""
    power = params["delta"] + params["nu"]
    strength = (power - params["alpha"]) / (params["alpha"] * params["n"] * bits_strength(params))
    return (strength * D ** params["beta"] * math.log2(B)) ** (1 / power)


def optimal_precision_at_size(
    params: Params, N: float, C: float, B: float, k: float = COST
) -> float:
    """Returns the compute-optimal P for N parameters and cost C = k N D P, D being free."""
    power, beta = params["delta"] + params["nu"], params["beta"]
    strength = (beta + power) / (params["d"] * beta * bits_strength(params))
    right = strength * (C / k) ** (2 * beta) * N ** -(params["alpha"] + 2 * beta) * math.log2(B)
    return right ** (1 / (power + 2 * beta))


def optimal_precision(params: Params, C: float, B: float, k: float = COST) -> float:
    """Returns the compute-optimal P for cost C = k N D P, N and D being free.

    Args:
        params: all eight parameters of the law.
        C: cost in FLOP of 16-bit products.
        B: elements per scale.
        k: cost of one bit, parameter and token.
    """
    power = params["delta"] + params["nu"]
    alpha, beta = params["alpha"], params["beta"]
    data = (power - alpha) / (alpha * params["n"] * bits_strength(params)) * math.log2(B)
    right = data ** ((alpha + beta) / beta)
    right *= (power - alpha) / (power + beta) * params["d"] * beta / (params["n"] * alpha)
    right *= (C / k) ** alpha
    return right ** (1 / (power * (alpha + beta) / beta + alpha))


def effective_size(params: Params, N: float, D: float, P: float, B: float) -> float:
    """Returns the N_eff whose unquantized size term equals size and precision terms together."""
    added = D ** params["beta"] * math.log2(B)
    added /= params["n"] * bits_strength(params) * P ** (params["delta"] + params["nu"])
    return N * (1 + added) ** (-1 / params["alpha"])
