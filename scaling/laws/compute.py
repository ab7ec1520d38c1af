"""Laws of size, data and compute, without precision: Kaplan, Chinchilla, over-training, Spectra.

Units everywhere: N parameters (raw count), D tokens (raw count), C = 6 N D training FLOP, losses in
nats per token. Whether N counts embeddings is the paper's choice and is said in each ``doc``.
"""

import numpy as np

from scaling.closed import chinchilla as closed
from scaling.laws.law import Law, Param, coefficient, exponent
from scaling.laws.registry import register

_SIZE = Param(name="N_c", search=(1e8, 1e18), doc="size at which the loss would be one nat")
_DATA = Param(name="D_c", search=(1e8, 1e18), doc="data at which the loss would be one nat")


def _line(x, y, scale: str, exponent_name: str) -> list[dict[str, float]]:
    slope, intercept = np.polyfit(np.log(x), np.log(y), 1)
    slope = min(slope, -1e-3)
    return [{exponent_name: -slope, scale: float(np.exp(np.clip(-intercept / slope, -30, 90)))}]


def _kaplan_single(name: str, predictor: str, scale: Param, exponent_name: str) -> Law:
    return Law(
        name=name,
        predictors=(predictor,),
        params=(scale, exponent(exponent_name)),
        formula=lambda p, x, xp: xp.exp(
            p[exponent_name] * (xp.log(p[scale.name]) - xp.log(x[predictor]))
        ),
        seed=lambda x, y: _line(x[predictor], y, scale.name, exponent_name),
        source="Kaplan et al. 2020, arXiv:2001.08361",
        doc=f"L = ({scale.name}/{predictor})^{exponent_name}; N without embeddings.",
    )


register(_kaplan_single("kaplan_n", "N", _SIZE, "alpha_N"))
register(_kaplan_single("kaplan_d", "D", _DATA, "alpha_D"))


def _kaplan_joint(p, x, xp):
    ratio = p["alpha_N"] / p["alpha_D"]
    size = xp.exp(ratio * (xp.log(p["N_c"]) - xp.log(x["N"])))
    return xp.exp(p["alpha_D"] * xp.log(size + p["D_c"] / x["D"]))


def _seed_kaplan_joint(x, y) -> list[dict[str, float]]:
    """Solves L^(1/alpha_D) = u N^-r + v / D, which is linear in u and v, on a grid of exponents."""
    seeds = []
    for alpha_d in np.geomspace(0.02, 0.6, 24):
        for alpha_n in np.geomspace(0.02, 0.6, 24):
            left = np.exp(np.log(y / np.median(y)) / alpha_d)
            ratio = alpha_n / alpha_d
            log_size, log_data = -ratio * np.log(x["N"]), -np.log(x["D"])
            center = log_size.mean(), log_data.mean()
            columns = np.stack([np.exp(log_size - center[0]), np.exp(log_data - center[1])], -1)
            uv, *_ = np.linalg.lstsq(columns / left[:, None], np.ones_like(y), rcond=None)
            if (uv <= 0).any():
                continue
            log_uv = np.log(uv) - center + np.log(np.median(y)) / alpha_d
            log_scale = log_uv[0] / ratio, log_uv[1]
            if max(log_scale) < 90 and min(log_scale) > -30:
                n_c, d_c = np.exp(log_scale)
                seeds.append({"N_c": n_c, "alpha_N": alpha_n, "D_c": d_c, "alpha_D": alpha_d})
    return seeds


register(
    Law(
        name="kaplan_nd",
        predictors=("N", "D"),
        params=(_SIZE, exponent("alpha_N"), _DATA, exponent("alpha_D")),
        formula=_kaplan_joint,
        seed=_seed_kaplan_joint,
        source="Kaplan et al. 2020, arXiv:2001.08361",
        doc="L = [(N_c/N)^(alpha_N/alpha_D) + D_c/D]^alpha_D; N without embeddings.",
    )
)


@register
def powerlaw_offset(predictor: str = "N") -> Law:
    """Returns L = A x^-alpha + E in one predictor, which may be any positive column."""
    return Law(
        name="powerlaw_offset",
        predictors=(predictor,),
        params=(coefficient("A"), exponent("alpha"), coefficient("E", "irreducible loss")),
        terms=lambda p, x, xp: {"A": -p["alpha"] * xp.log(x[predictor]), "E": 0.0},
        options=(("predictor", predictor),),
        source="Spectra (Kaushal et al. 2024, arXiv:2407.12327) fits it per family",
        doc=f"L = A {predictor}^-alpha + E.",
    )


def chinchilla_terms(p, x, xp):
    """Returns the logarithms of N^-alpha, D^-beta and 1, by coefficient."""
    return {
        "A": -p["alpha"] * xp.log(x["N"]),
        "B": -p["beta"] * xp.log(x["D"]),
        "E": 0.0,
    }


#: Quantities that follow from the parameters of a Chinchilla law.
COMPUTE_OPTIMAL = {
    "N_opt": closed.optimal_size,
    "D_opt": closed.optimal_data,
    "tokens_per_parameter": closed.tokens_per_parameter,
    "a": lambda params: closed.allocation_exponents(params)[0],
    "b": lambda params: closed.allocation_exponents(params)[1],
}

CHINCHILLA_PARAMS = (
    coefficient("A", "loss of a model of one parameter, nats"),
    coefficient("B", "loss after one token, nats"),
    coefficient("E", "irreducible loss, nats"),
    exponent("alpha", "exponent of size"),
    exponent("beta", "exponent of data"),
)

register(
    Law(
        name="chinchilla",
        predictors=("N", "D"),
        params=CHINCHILLA_PARAMS,
        terms=chinchilla_terms,
        derived=COMPUTE_OPTIMAL,
        source="Hoffmann et al. 2022, arXiv:2203.15556",
        doc="L = A N^-alpha + B D^-beta + E; N with embeddings in the paper.",
    )
)


def _gadre_terms(p, x, xp):
    log_c = xp.log(6 * x["N"] * x["D"])
    log_m = xp.log(x["D"] / x["N"])
    return {
        "a": p["eta"] * (log_m - log_c),
        "b": -p["eta"] * (log_m + log_c),
        "E": 0.0,
    }


register(
    Law(
        name="gadre",
        predictors=("N", "D"),
        params=(
            coefficient("a", "size part, nats"),
            coefficient("b", "data part, nats"),
            coefficient("E", "irreducible loss, nats"),
            exponent("eta", "common exponent in compute", search=(0.02, 0.6)),
        ),
        terms=_gadre_terms,
        derived={
            name: lambda params, f=f, **kw: f(closed.gadre_to_chinchilla(params), **kw)
            for name, f in COMPUTE_OPTIMAL.items()
        },
        source="Gadre et al. 2024, arXiv:2403.08540",
        doc="L = E + (a M^eta + b M^-eta) C^-eta with M = D/N, C = 6ND; N with embeddings.",
    )
)
