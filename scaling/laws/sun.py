"""Laws of floating-point training (Sun et al. 2025): exponent bits, mantissa bits and block size.

The law was fitted for runs whose weights (forward and backward) and whose activations in the weight
gradient are quantized; forward activations and output gradients stayed in high precision. It says
nothing about formats that quantize those two, which hurt most. E and M count bits without the sign,
B is the number of elements that share one scale (channel-wise scaling: log2 B = 13.1567).
"""

from scaling.closed import sun as closed
from scaling.laws.law import Law, Param, coefficient, exponent
from scaling.laws.registry import register

_SOURCE = "Sun et al. 2025, arXiv:2501.02423"
#: Block size that stands for channel-wise scaling in the published fit.
CHANNEL_BLOCK = 2.0**13.1567

_BASE = (
    coefficient("n", "size part, nats"),
    exponent("alpha", "exponent of size"),
    coefficient("d", "data part, nats"),
    exponent("beta", "exponent of data"),
    coefficient("epsilon", "irreducible loss, nats"),
)
_GAMMA = coefficient("gamma", "precision at which the interaction would be one nat")


def _bits_exponent(name: str) -> Param:
    return exponent(name, "exponent of bits plus one half", search=(0.5, 5.0), upper=12.0)


def _base_terms(p, x, xp):
    return {
        "n": -p["alpha"] * xp.log(x["N"]),
        "d": -p["beta"] * xp.log(x["D"]),
        "epsilon": 0.0,
    }


def _interaction(p, x, xp):
    return p["beta"] * xp.log(x["D"]) - p["alpha"] * xp.log(x["N"])


def _full(p, x, xp):
    low = p["delta"] * xp.log(x["E"] + 0.5) + p["nu"] * xp.log(x["M"] + 0.5)
    block = xp.log(xp.log2(x["B"]))
    return _base_terms(p, x, xp) | {"gamma": _interaction(p, x, xp) + block - low}


register(
    Law(
        name="sun_fp",
        predictors=("N", "D", "E", "M", "B"),
        params=_BASE + (_GAMMA, _bits_exponent("delta"), _bits_exponent("nu")),
        terms=_full,
        derived={
            "D_crit": closed.critical_data,
            "P_opt": closed.optimal_precision,
            "P_opt_at_D": closed.optimal_precision_at_data,
            "P_opt_at_N": closed.optimal_precision_at_size,
            "best_layout": closed.best_layout,
            "N_eff": closed.effective_size,
        },
        inverse=frozenset({"gamma"}),
        source=_SOURCE,
        doc="L = n N^-alpha + d D^-beta + epsilon "
        "+ (D^beta/N^alpha) log2(B) / [gamma (E+1/2)^delta (M+1/2)^nu]; N without embeddings.",
    )
)


def _marginal(name: str, column: str, exponent_name: str) -> Law:
    def terms(p, x, xp):
        low = p[exponent_name] * xp.log(x[column] + 0.5)
        return _base_terms(p, x, xp) | {"gamma": _interaction(p, x, xp) - low}

    return Law(
        name=name,
        predictors=("N", "D", column),
        params=_BASE + (_GAMMA, _bits_exponent(exponent_name)),
        terms=terms,
        inverse=frozenset({"gamma"}),
        source=_SOURCE,
        doc=f"L = n N^-alpha + d D^-beta + epsilon "
        f"+ (D^beta/N^alpha) / [gamma ({column}+1/2)^{exponent_name}].",
    )


register(_marginal("sun_e", "E", "delta"))
register(_marginal("sun_m", "M", "nu"))


def _block(p, x, xp):
    block = xp.log(xp.log2(x["B"]))
    return _base_terms(p, x, xp) | {"kappa": _interaction(p, x, xp) + block}


register(
    Law(
        name="sun_block",
        predictors=("N", "D", "B"),
        params=_BASE + (coefficient("kappa", "inverse strength of the block term"),),
        terms=_block,
        inverse=frozenset({"kappa"}),
        source=_SOURCE,
        doc="L = n N^-alpha + d D^-beta + epsilon + (D^beta/N^alpha) log2(B) / kappa.",
    )
)
