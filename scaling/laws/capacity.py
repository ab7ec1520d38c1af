"""Laws of effective size per format: one number per format, or a function of its GMSE.

L = A (N rho)^-alpha + B D^-beta + E. The decoupled law (Frantar et al. 2025; QuEST) spends one
parameter per format and predicts nothing about formats it has not seen. The capacity laws
(Panferov et al. 2025) spend two on all formats, through the error with which a format represents
Gaussian data (``scaling.capacity``), and so extend to new ones.
"""

import numpy as np

from scaling.laws import labels as tags
from scaling.laws.compute import CHINCHILLA_PARAMS
from scaling.laws.law import Law, Param
from scaling.laws.registry import register

_LOG4 = float(np.log(4.0))


def _sized_terms(p, x, xp, log_rho):
    return {
        "A": -p["alpha"] * (xp.log(x["N"]) + log_rho),
        "B": -p["beta"] * xp.log(x["D"]),
        "E": 0.0,
    }


def _eff(label: str, reference: bool) -> Param:
    return Param(
        name=f"eff_{label}",
        search=(0.02, 1.1),
        bounds=(1e-4, 20.0),
        fixed=1.0 if reference else None,
        doc=f"effective size of {label}, relative to the unquantized format",
    )


def _seed_decoupled(names: tuple[str, ...], reference: str):
    """Solves for one amplitude per label: linear given the exponents, nonnegative, exact."""

    def seed(x, y):
        from scipy.optimize import nnls

        found = []
        log_n, log_d = np.log(x["N"]), np.log(x["D"])
        masks = [tags.is_label(x["fmt"], name) for name in names]
        for alpha in np.geomspace(0.03, 0.9, 16):
            size = np.exp(-alpha * (log_n - log_n.mean()))
            for beta in np.geomspace(0.05, 0.9, 12):
                data = np.exp(-beta * (log_d - log_d.mean()))
                columns = np.stack([*(m * size for m in masks), data, np.ones_like(y)], -1)
                c, error = nnls(columns / y[:, None], np.ones_like(y))
                amplitude = dict(zip(names, c[: len(names)]))
                if min(amplitude.values()) <= 0:
                    continue
                ratio = {k: v / amplitude[reference] for k, v in amplitude.items()}
                params = {f"eff_{k}": r ** (-1 / alpha) for k, r in ratio.items()}
                params |= {
                    "A": amplitude[reference] * np.exp(alpha * log_n.mean()),
                    "B": max(c[-2], 1e-6) * np.exp(beta * log_d.mean()),
                    "E": max(c[-1], 1e-6),
                    "alpha": float(alpha),
                    "beta": float(beta),
                }
                found.append((error, params))
        return [params for _, params in sorted(found, key=lambda pair: pair[0])[:20]]

    return seed


@register
def decoupled_eff(labels: tuple[str, ...] = (), reference: str | None = None) -> Law:
    """Returns L = A (N eff_fmt)^-alpha + B D^-beta + E with one effective size per label."""
    names = tuple(labels)
    base = tags.reference_of(names, reference) if names else ""

    def terms(p, x, xp):
        return _sized_terms(p, x, xp, xp.log(tags.pick(p, "eff_", names, x["fmt"], xp)))

    return Law(
        name="decoupled_eff",
        predictors=("N", "D", "fmt"),
        params=CHINCHILLA_PARAMS + tuple(_eff(k, k == base) for k in names),
        terms=terms,
        seed=_seed_decoupled(names, base) if names else None,
        bind=None if names else lambda law, x: decoupled_eff(tags.found(x["fmt"]), reference),
        options=(("labels", names), ("reference", base or reference)),
        source="Frantar et al. 2025, arXiv:2502.16440; QuEST, Panferov et al. 2025, "
        "arXiv:2502.05003",
        doc="L = A (N eff_fmt)^-alpha + B D^-beta + E with eff = 1 for the unquantized format.",
    )


def _gmse_names(operands: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"GMSE_{t}" if t else "GMSE" for t in operands)


def _capacity_law(name: str, operands: tuple[str, ...], per_operand, log_rho, doc: str) -> Law:
    predictors = _gmse_names(operands)

    def terms(p, x, xp):
        rho = sum(
            log_rho(p, f"_{t}" if t else "", xp.maximum(x[column], 1e-30), xp)
            for t, column in zip(operands, predictors)
        )
        return _sized_terms(p, x, xp, rho)

    params = CHINCHILLA_PARAMS
    for t in operands:
        params += per_operand(f"_{t}" if t else "")
    return Law(
        name=name,
        predictors=("N", "D", *predictors),
        params=params,
        terms=terms,
        options=(("operands", operands),),
        source="Panferov et al. 2025, arXiv:2506.01863",
        doc=doc,
    )


@register
def capacity_tanh(operands: tuple[str, ...] = ("",)) -> Law:
    """Returns the law with rho = L tanh(F log_{1/4} GMSE)^C, multiplied over operands.

    L stays 1 unless freed by bounds: a representation whose error vanishes loses nothing.

    Args:
        operands: suffixes of the columns: ("",) reads GMSE, ("w", "a") reads GMSE_w and GMSE_a.
    """

    def params(suffix):
        return (
            Param(name=f"F{suffix}", search=(0.1, 1.5), bounds=(0.01, 20.0), doc="steepness"),
            Param(name=f"C{suffix}", search=(0.5, 6.0), bounds=(0.02, 60.0), doc="sharpness"),
            Param(name=f"L{suffix}", search=(0.5, 1.1), fixed=1.0, doc="capacity at no error"),
        )

    def log_rho(p, suffix, gmse, xp):
        rise = xp.log(xp.tanh(-p[f"F{suffix}"] * xp.log(gmse) / _LOG4))
        return xp.log(p[f"L{suffix}"]) + p[f"C{suffix}"] * rise

    doc = "L = A (N rho)^-alpha + B D^-beta + E with rho = tanh(F log_{1/4} GMSE)^C."
    return _capacity_law("capacity_tanh", tuple(operands), params, log_rho, doc)


@register
def capacity_logistic(operands: tuple[str, ...] = ("",)) -> Law:
    """Returns the law with rho = 1 / (1 + K GMSE^q), multiplied over operands."""

    def params(suffix):
        return (
            Param(name=f"K{suffix}", search=(0.5, 60.0), bounds=(1e-3, 1e6), doc="strength"),
            Param(name=f"q{suffix}", search=(0.2, 2.0), bounds=(0.02, 10.0), doc="sharpness"),
        )

    def log_rho(p, suffix, gmse, xp):
        return -xp.log(1 + p[f"K{suffix}"] * xp.exp(p[f"q{suffix}"] * xp.log(gmse)))

    doc = "L = A (N rho)^-alpha + B D^-beta + E with rho = 1 / (1 + K GMSE^q)."
    return _capacity_law("capacity_logistic", tuple(operands), params, log_rho, doc)
