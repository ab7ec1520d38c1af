"""Closed forms of Kumar's laws: effective size, half-points, optimal precision, critical data.

Cost is C = (6/16) N D P: a product of P-bit operands counts P/16 of a 16-bit one. Bits are real
numbers here; the planner rounds to formats that exist. Derived from arXiv:2411.04330; the sign of
the shifts is inferred (see ``scaling.laws.kumar``).
"""

import math
from collections.abc import Iterable, Mapping

import numpy as np

Params = Mapping[str, float]
TENSORS = ("w", "a", "kv")
COST = 6 / 16


def factor(bits, gamma: float, shift: float = 0.0):
    """Returns 1 - exp(-bits/gamma + shift), the share of the size that ``bits`` leave."""
    return 1 - np.exp(shift - np.asarray(bits, float) / gamma)


def capacity(params: Params, bits, tensors: Iterable[str] = TENSORS):
    """Returns N_eff / N where every tensor has ``bits`` bits; 0 where a factor is not positive."""
    out = np.ones_like(np.asarray(bits, float))
    for t in tensors:
        if f"gamma_{t}" in params:
            share = factor(bits, params[f"gamma_{t}"], params.get(f"n_{t}", 0.0))
            out = out * np.maximum(share, 0.0)
    return out


def half_point(params: Params, tensor: str = "w") -> float:
    """Returns the bits at which a tensor's factor is one half: gamma (n + log 2)."""
    return params[f"gamma_{tensor}"] * (params.get(f"n_{tensor}", 0.0) + math.log(2))


def equal_optimum(factors: int = 3) -> float:
    """Returns x = P*/gamma, the root of e^x = 1 + factors * x, for equal unshifted factors.

    1.90381 for three factors: the optimal precision depends neither on compute nor on data.
    """
    x = 1.0 + math.log(1.0 + factors)
    for _ in range(60):
        value, slope = math.exp(x) - 1 - factors * x, math.exp(x) - factors
        x -= value / slope
    return x


def optimal_precision(params: Params, tensors: Iterable[str] = TENSORS) -> float:
    """Returns the P that maximizes N_eff per bit, which is compute-optimal for every budget.

    With N, D and P free and C = (6/16) N D P, only N_eff / P matters. Found to 1e-10 on a grid that
    is refined; bits below 0.5 and above 64 are not considered.

    Raises:
        ValueError: no precision has a positive capacity.
    """
    tensors = tuple(tensors)
    low, high = 0.5, 64.0
    for _ in range(12):
        bits = np.linspace(low, high, 401)
        gain = capacity(params, bits, tensors) / bits
        best = int(np.argmax(gain))
        if gain[best] <= 0:
            raise ValueError("The factors leave no capacity at any precision up to 64 bits.")
        low, high = bits[max(best - 1, 0)], bits[min(best + 1, 400)]
    return float((low + high) / 2)


def optimum_at_precision(
    params: Params, C: float, P: float, tensors: Iterable[str] = TENSORS, k: float = COST
) -> tuple[float, float]:
    """Returns the N and D that minimize the loss at P bits for cost C = k N D P.

    Args:
        params: A, B, alpha, beta and the factors.
        C: cost in FLOP of 16-bit products.
        P: bits of every tensor.
        tensors: which factors apply.
        k: cost of one bit, parameter and token.

    Raises:
        ValueError: P leaves no capacity.
    """
    share = float(capacity(params, P, tensors))
    if share <= 0:
        raise ValueError(f"P={P} bits leave no capacity; the law says nothing there.")
    alpha, beta = params["alpha"], params["beta"]
    u = share**-alpha
    ratio = alpha * params["A"] * u / (beta * params["B"])
    product = C / (k * P)
    N = ratio ** (1 / (alpha + beta)) * product ** (beta / (alpha + beta))
    return N, product / N


def critical_data(params: Params, N: float, P_post: float) -> float:
    """Returns the D beyond which more training data harm the model after quantization.

    Where the derivative of B D^-beta + C_T D^gamma_D N^-gamma_N exp(-P/gamma_post + b) vanishes.

    Args:
        params: B, beta, C_T, gamma_D, gamma_N, gamma_post and, where known, b_post.
        N: parameters.
        P_post: bits after training.
    """
    strength = math.exp(-P_post / params["gamma_post"] + params.get("b_post", 0.0))
    push = params["gamma_D"] * params["C_T"] * strength * N ** -params["gamma_N"]
    pull = params["beta"] * params["B"]
    return (pull / push) ** (1 / (params["gamma_D"] + params["beta"]))
