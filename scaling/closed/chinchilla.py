"""Closed forms of L = A N^-alpha + B D^-beta + E and of over-training at a given D/N.

Derived by setting the derivative along C = 6 N D to zero (Hoffmann et al. 2022, section 3.3).
"""

from collections.abc import Mapping

import numpy as np

Params = Mapping[str, float]


def allocation_exponents(params: Params) -> tuple[float, float]:
    """Returns (a, b) of N ~ C^a and D ~ C^b along the compute-optimal path."""
    alpha, beta = params["alpha"], params["beta"]
    return beta / (alpha + beta), alpha / (alpha + beta)


def optimum(params: Params, C: float, flops_per: float = 6.0) -> tuple[float, float]:
    """Returns the N and D that minimize the loss for a budget.

    Args:
        params: A, B, alpha, beta.
        C: training FLOP.
        flops_per: FLOP per parameter and token; 6 counts forward and backward passes.
    """
    a, b = allocation_exponents(params)
    sum_ = params["alpha"] + params["beta"]
    g = (params["alpha"] * params["A"] / (params["beta"] * params["B"])) ** (1 / sum_)
    return g * (C / flops_per) ** a, (C / flops_per) ** b / g


def optimal_size(params: Params, C: float) -> float:
    """Returns the compute-optimal N for C training FLOP."""
    return optimum(params, C)[0]


def optimal_data(params: Params, C: float) -> float:
    """Returns the compute-optimal D for C training FLOP."""
    return optimum(params, C)[1]


def tokens_per_parameter(params: Params, C: float) -> float:
    """Returns D/N along the compute-optimal path at C training FLOP."""
    n, d = optimum(params, C)
    return d / n


def loss(params: Params, N, D):
    """Returns A N^-alpha + B D^-beta + E."""
    size = params["A"] * np.asarray(N, float) ** -params["alpha"]
    return size + params["B"] * np.asarray(D, float) ** -params["beta"] + params["E"]


def size_for_loss(params: Params, target: float, D: float) -> float:
    """Returns the N that reaches ``target`` with D tokens; infinite where none does."""
    left = target - params["E"] - params["B"] * D ** -params["beta"]
    return float((params["A"] / left) ** (1 / params["alpha"])) if left > 0 else np.inf


def data_for_loss(params: Params, target: float, N: float) -> float:
    """Returns the D at which N parameters reach ``target``; infinite where none does."""
    left = target - params["E"] - params["A"] * N ** -params["alpha"]
    return float((params["B"] / left) ** (1 / params["beta"])) if left > 0 else np.inf


def gadre_to_chinchilla(params: Params) -> dict[str, float]:
    """Returns the Chinchilla parameters that equal an over-training law.

    E + (a M^eta + b M^-eta) C^-eta with M = D/N and C = 6ND is E + a 6^-eta N^-2eta
    + b 6^-eta D^-2eta.
    """
    factor = 6.0 ** -params["eta"]
    return {
        "A": params["a"] * factor,
        "B": params["b"] * factor,
        "E": params["E"],
        "alpha": 2 * params["eta"],
        "beta": 2 * params["eta"],
    }
