"""Laws of integer precision (Kumar et al. 2024): quantized training, post-training, and both.

Bits shrink the effective size: N_eff = N * prod f_x with f_x = 1 - exp(-P_x/gamma_x + n_x). The
paper says only that its fits are shifted; the sign ``+ n_x`` is inferred, because with it the
published constants give a jointly optimal precision of 7.00 bits, the paper's "7-8 bits", while
without shifts they give 3.5 to 5.1, and with the opposite sign none. The zero of the activation
factor then lies at 3.11 bits, where the paper reports diverging runs.

Every law here is a sum of terms; P may be any positive number of bits, 16 standing for unquantized.
"""

from typing import Any

import numpy as np

from scaling.closed import kumar as closed
from scaling.laws.compute import CHINCHILLA_PARAMS
from scaling.laws.law import Law, Param, coefficient, exponent, positive
from scaling.laws.registry import register

_SOURCE = "Kumar et al. 2024, arXiv:2411.04330"


def log_factor(bits: Any, gamma: Any, shift: Any, xp) -> Any:
    """Returns log(1 - exp(-bits/gamma + shift)), floored where the factor is not positive."""
    return xp.log(positive(1 - xp.exp(shift - bits / gamma), xp))


def _gamma(tensor: str) -> Param:
    return Param(
        name=f"gamma_{tensor}",
        search=(0.4, 5.0),
        bounds=(0.05, 50.0),
        doc=f"bits over which the {tensor} factor rises by 1/e",
    )


def _shift(tensor: str, fixed: bool) -> Param:
    return Param(
        name=f"n_{tensor}",
        search=(-0.5, 3.0),
        log=False,
        bounds=(-3.0, 8.0),
        fixed=0.0 if fixed else None,
        doc=f"shift of the {tensor} factor to the right, in units of gamma",
    )


def _derived(tensors: tuple[str, ...]) -> dict:
    found = {
        "P_opt": lambda params: closed.optimal_precision(params, tensors),
        "capacity": lambda params, P: closed.capacity(params, P, tensors),
        "N_opt": lambda params, C, P: closed.optimum_at_precision(params, C, P, tensors)[0],
        "D_opt": lambda params, C, P: closed.optimum_at_precision(params, C, P, tensors)[1],
    }
    for t in tensors:
        found[f"half_point_{t}"] = lambda params, t=t: closed.half_point(params, t)
    return found


def _factor_params(tensors: tuple[str, ...], shifts: bool) -> tuple[Param, ...]:
    gammas = tuple(_gamma(t) for t in tensors)
    return gammas + tuple(_shift(t, fixed=not shifts) for t in tensors)


def _log_capacity(p, x, xp, tensors: tuple[str, ...]):
    return sum(log_factor(x[f"P_{t}"], p[f"gamma_{t}"], p[f"n_{t}"], xp) for t in tensors)


def _quantized_size_terms(p, x, xp, tensors):
    log_n_eff = xp.log(x["N"]) + _log_capacity(p, x, xp, tensors)
    return {"A": -p["alpha"] * log_n_eff, "B": -p["beta"] * xp.log(x["D"]), "E": 0.0}


def _training_law(name: str, tensors: tuple[str, ...], shifts: bool, doc: str) -> Law:
    return Law(
        name=name,
        predictors=("N", "D", *(f"P_{t}" for t in tensors)),
        params=CHINCHILLA_PARAMS + _factor_params(tensors, shifts),
        terms=lambda p, x, xp: _quantized_size_terms(p, x, xp, tensors),
        derived=_derived(tensors),
        options=(("shifts", shifts),),
        source=_SOURCE,
        doc=doc,
    )


@register
def kumar_qat(shifts: bool = True) -> Law:
    """Returns the law of weight precision during training, with or without the shift."""
    doc = "L = A (N f(P_w))^-alpha + B D^-beta + E; N without embeddings in the paper."
    return _training_law("kumar_qat", ("w",), shifts, doc)


@register
def kumar_lp(shifts: bool = True) -> Law:
    """Returns the law of weight, activation and KV precision during training."""
    doc = "L = A (N f(P_w) f(P_a) f(P_kv))^-alpha + B D^-beta + E."
    return _training_law("kumar_lp", ("w", "a", "kv"), shifts, doc)


@register
def kumar_equal(factors: int = 3, shifts: bool = True) -> Law:
    """Returns the law of one precision P for all tensors: f(P) to the power ``factors``."""

    def terms(p, x, xp):
        log_n_eff = xp.log(x["N"]) + factors * log_factor(x["P"], p["gamma"], p["n"], xp)
        return {"A": -p["alpha"] * log_n_eff, "B": -p["beta"] * xp.log(x["D"]), "E": 0.0}

    gamma = Param(name="gamma", search=(0.4, 5.0), bounds=(0.05, 50.0), doc="bits")
    shift = Param(
        name="n", search=(-0.5, 3.0), log=False, bounds=(-3.0, 8.0), fixed=None if shifts else 0.0
    )

    def as_tensors(params):
        named = {t: str(i) for i, t in enumerate(range(factors))}
        out = dict(params)
        for t in named.values():
            out |= {f"gamma_{t}": params["gamma"], f"n_{t}": params["n"]}
        return out, tuple(named.values())

    return Law(
        name="kumar_equal",
        predictors=("N", "D", "P"),
        params=CHINCHILLA_PARAMS + (gamma, shift),
        terms=terms,
        derived={
            "P_opt": lambda params: closed.optimal_precision(*as_tensors(params)),
            "half_point": lambda params: closed.half_point(*as_tensors(params)[:1], "0"),
        },
        options=(("factors", factors), ("shifts", shifts)),
        source=_SOURCE,
        doc=f"L = A (N f(P)^{factors})^-alpha + B D^-beta + E with f = 1 - exp(-P/gamma + n).",
    )


_PTQ_PARAMS = (
    coefficient("C_T", "degradation at one token, one parameter and no bits, nats"),
    exponent("gamma_D", "exponent of data in the degradation"),
    exponent("gamma_N", "exponent of size in the degradation"),
    Param(name="gamma_post", search=(0.2, 2.0), bounds=(0.02, 20.0), doc="bits per e-fold"),
    Param(
        name="b_post",
        search=(0.0, 2.0),
        log=False,
        bounds=(-5.0, 5.0),
        fixed=0.0,
        doc="shift of the exponential; inseparable from C_T, so held at 0 by default",
    ),
)


def _log_degradation(p, x, xp, log_n_eff):
    return (
        p["gamma_D"] * xp.log(x["D"])
        - p["gamma_N"] * log_n_eff
        - x["P_post"] / p["gamma_post"]
        + p["b_post"]
    )


register(
    Law(
        name="kumar_ptq",
        predictors=("N", "D", "P_post"),
        params=_PTQ_PARAMS,
        terms=lambda p, x, xp: {"C_T": _log_degradation(p, x, xp, xp.log(x["N"]))},
        target="delta",
        source=_SOURCE,
        doc="delta = C_T D^gamma_D N^-gamma_N exp(-P_post/gamma_post + b_post), in nats.",
    )
)


def _interaction(tensor: str) -> Param:
    return Param(
        name=f"C_{tensor}",
        search=(0.05, 5.0),
        bounds=(1e-3, 100.0),
        doc=f"how fast training in few {tensor} bits protects from post-training bits",
    )


@register
def kumar_unified(shifts: bool = True, tensors: tuple[str, ...] = ("w", "a", "kv")) -> Law:
    """Returns the law of training precision and post-training weight precision together.

    The degradation is zero where the post-training precision is not below the training precision.
    A run that was never quantized afterwards carries P_post equal to its P_w.
    """
    tensors = tuple(tensors)

    def terms(p, x, xp):
        log_n_eff = xp.log(x["N"]) + _log_capacity(p, x, xp, tensors)
        log_delta = _log_degradation(p, x, xp, log_n_eff)
        for t in tensors:
            gap = x[f"P_{t}"] - x["P_post"]
            # The inner guard keeps derivatives finite where the degradation is zero.
            loss = xp.where(gap > 0, 1 - xp.exp(-p[f"C_{t}"] * xp.where(gap > 0, gap, 1.0)), 1.0)
            log_delta = xp.where(gap > 0, log_delta + xp.log(loss), -xp.inf)
        return _quantized_size_terms(p, x, xp, tensors) | {"C_T": log_delta}

    def never_post_quantized(x):
        return x["P_post"] >= np.min([x[f"P_{t}"] for t in tensors], axis=0)

    return Law(
        name="kumar_unified",
        predictors=("N", "D", *(f"P_{t}" for t in tensors), "P_post"),
        params=CHINCHILLA_PARAMS
        + _factor_params(tensors, shifts)
        + _PTQ_PARAMS
        + tuple(_interaction(t) for t in tensors),
        terms=terms,
        derived=_derived(tensors) | {"D_crit": closed.critical_data},
        nested=(_training_law("kumar_lp", tensors, shifts, ""), never_post_quantized),
        options=(("shifts", shifts), ("tensors", tensors)),
        source=_SOURCE,
        doc="L = A N_eff^-alpha + B D^-beta + E + C_T exp(-P_post/gamma_post) "
        "D^gamma_D N_eff^-gamma_N prod [1 - exp(-C_x (P_x - P_post))].",
    )
