"""Laws of what quantization costs: QAT with granularity (Chen), quantization-induced degradation.

Both are single power-law terms in nats, log-linear in their parameters, and predict the column
``delta`` = loss - loss_base. ``qat_granularity_loss`` puts Chen's term on a Chinchilla base and
predicts the loss itself, which needs no positive differences and weighs noise correctly.
"""

from scaling.laws.compute import CHINCHILLA_PARAMS, chinchilla_terms
from scaling.laws.law import Law, coefficient, exponent
from scaling.laws.registry import register

_CHEN = "Chen et al. 2025, arXiv:2505.14302"
_CHEN_PARAMS = (
    coefficient("k", "degradation at one parameter, one token and G = 2, nats"),
    exponent("gamma_N", "exponent of size", search=(0.05, 0.6)),
    exponent("gamma_D", "exponent of data", search=(0.02, 0.4)),
    exponent("gamma_G", "exponent of log2 G", search=(0.1, 1.5)),
)


def _chen_terms(p, x, xp):
    return {
        "k": p["gamma_D"] * xp.log(x["D"])
        + p["gamma_G"] * xp.log(xp.log2(x["B"]))
        - p["gamma_N"] * xp.log(x["N"])
    }


register(
    Law(
        name="qat_granularity",
        predictors=("N", "D", "B"),
        params=_CHEN_PARAMS,
        terms=_chen_terms,
        target="delta",
        source=_CHEN,
        doc="delta = k D^gamma_D (log2 G)^gamma_G / N^gamma_N with G = B elements per scale.",
    )
)
register(
    Law(
        name="qat_granularity_loss",
        predictors=("N", "D", "B"),
        params=CHINCHILLA_PARAMS + _CHEN_PARAMS,
        terms=lambda p, x, xp: chinchilla_terms(p, x, xp) | _chen_terms(p, x, xp),
        source=_CHEN,
        doc="L = A N^-alpha + B D^-beta + E + k D^gamma_D (log2 G)^gamma_G / N^gamma_N.",
    )
)
register(
    Law(
        name="qid",
        predictors=("N", "D", "P"),
        params=(
            coefficient("k", "degradation at one parameter, one token and one bit, nats"),
            exponent("alpha", "exponent of size", search=(0.05, 0.6)),
            exponent("beta", "exponent of data", search=(0.1, 0.9)),
            exponent("gamma", "exponent of bits", search=(1.0, 9.0), upper=20.0),
        ),
        terms=lambda p, x, xp: {
            "k": p["beta"] * xp.log(x["D"])
            - p["alpha"] * xp.log(x["N"])
            - p["gamma"] * xp.log(x["P"])
        },
        target="delta",
        source="Ouyang et al. 2024, arXiv:2411.17691",
        doc="delta = k D^beta / (N^alpha P^gamma); N without embeddings, P from 2 to 4 bits.",
    )
)
