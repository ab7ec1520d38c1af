"""Published constants, with what they were fitted to and in which units.

None of these numbers transfers to another dataset, tokenizer or recipe: use them to check formulas,
to design experiments and to simulate, and refit at least the unquantized part before predicting
your own losses. ``notes`` says what is inferred, rounded or missing.
"""

import difflib
from dataclasses import dataclass, field
from math import exp

from scaling.laws.law import Law
from scaling.laws.registry import get

_RAW = "N parameters, D tokens (raw counts), loss nats/token"


@dataclass(frozen=True, kw_only=True)
class Published:
    """Constants of one paper.

    Args:
        name: the key.
        family: the registered law, with ``options``.
        params: natural parameters.
        source: paper and place.
        units: of the predictors and the target.
        notes: what to know before using them.
        options: options of the law.
    """

    name: str
    family: str
    params: dict[str, float] = field(hash=False)
    source: str
    units: str = _RAW
    notes: str = ""
    options: tuple[tuple[str, object], ...] = ()

    @property
    def law(self) -> Law:
        """The law that the constants belong to."""
        return get(self.family, **dict(self.options))

    def predict(self, **points):
        """Predicts the target at predictors given by name."""
        return self.law.predict(self.params, points)


_ALL: dict[str, Published] = {}


def _add(name: str, family: str, source: str, params: dict[str, float], **rest) -> None:
    _ALL[name] = Published(name=name, family=family, source=source, params=params, **rest)


def published_names() -> tuple[str, ...]:
    """Returns the names of all published constants, sorted."""
    return tuple(sorted(_ALL))


def published(name: str) -> Published:
    """Returns published constants by name.

    Raises:
        ValueError: there are none of that name; all names are listed.
    """
    if name not in _ALL:
        near = difflib.get_close_matches(name, _ALL, n=3, cutoff=0.5)
        hint = f" Near: {', '.join(near)}." if near else ""
        raise ValueError(
            f"No constants are named {name!r}.{hint} There are {', '.join(published_names())}."
        )
    return _ALL[name]


_KAPLAN = "Kaplan et al. 2020, arXiv:2001.08361"
_WEBTEXT = "N without embeddings, D tokens, loss nats/token on WebText2"
_SECOND = "Read second-hand, not in the paper itself."
_add("kaplan2020_n", "kaplan_n", _KAPLAN, {"N_c": 8.8e13, "alpha_N": 0.076}, units=_WEBTEXT,
     notes=_SECOND)  # fmt: skip
_add("kaplan2020_d", "kaplan_d", _KAPLAN, {"D_c": 5.4e13, "alpha_D": 0.095}, units=_WEBTEXT,
     notes=_SECOND)  # fmt: skip
_add(
    "kaplan2020_nd",
    "kaplan_nd",
    _KAPLAN,
    {"N_c": 6.4e13, "alpha_N": 0.076, "D_c": 1.8e13, "alpha_D": 0.103},
    units=_WEBTEXT,
    notes="N_c and D_c of the joint law are recalled, not verified.",
)
_HOFFMANN = "Hoffmann et al. 2022, arXiv:2203.15556, approach 3"
_add(
    "hoffmann2022",
    "chinchilla",
    _HOFFMANN,
    {
        "A": exp(6.0073404),
        "B": exp(6.0179186),
        "E": exp(0.5267228),
        "alpha": 0.33917084,
        "beta": 0.2849083,
    },
    notes="Unrounded, from the paper's TeX. Rejected by a refit of the same points "
    "(besiroglu2024): the optimizer had stopped early.",
)
_add(
    "hoffmann2022_rounded",
    "chinchilla",
    _HOFFMANN,
    {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.34, "beta": 0.28},
    notes="As printed. Rounding beta moves the loss at 70B/1.4T from 1.9208 to 1.9366.",
)
_add(
    "besiroglu2024",
    "chinchilla",
    "Besiroglu et al. 2024, arXiv:2404.10102",
    {"A": 482.01, "B": 2085.43, "E": 1.8172, "alpha": 0.3478, "beta": 0.3658},
    notes="Points read off a figure of Hoffmann et al.; a Huber likelihood with fitted scale.",
)
for _key, _set, _a, _b, _e, _eta in (
    ("c4", "C4", 141.3, 189.5, 1.508, 0.1212),
    ("redpajama", "RedPajama", 212.2, 366.7, 1.837, 0.1364),
    ("refinedweb", "RefinedWeb", 157.1, 246.2, 1.735, 0.1272),
):
    _add(
        f"gadre2024_{_key}",
        "gadre",
        "Gadre et al. 2024, arXiv:2403.08540",
        {"a": _a, "b": _b, "E": _e, "eta": _eta},
        units="N with embeddings, D tokens, C4-eval loss nats/token",
        notes=f"Trained on {_set}; five small runs.",
    )
_KUMAR = "Kumar et al. 2024, arXiv:2411.04330, appendix K"
_KUMAR_UNITS = "N without embeddings, D tokens, P bits, loss nats/token on Dolma"
_KUMAR_BASE = {"A": 4.299e3, "B": 1.806e4, "E": 2.7648, "alpha": 0.4965, "beta": 0.4965}
_SIGN = "The sign of the shifts is inferred: with it the jointly optimal precision is 7.00 bits."
_add(
    "kumar2024",
    "kumar_lp",
    _KUMAR,
    _KUMAR_BASE
    | {"gamma_w": 2.6745, "gamma_a": 2.2102, "gamma_kv": 0.9578}
    | {"n_w": 0.3037, "n_a": 1.4072, "n_kv": 2.4185},
    units=_KUMAR_UNITS,
    notes=f"{_SIGN} alpha and beta were tied.",
)
_add(
    "kumar2024_qat",
    "kumar_qat",
    _KUMAR,
    _KUMAR_BASE | {"gamma_w": 2.6745, "n_w": 0.3037},
    units=_KUMAR_UNITS,
    notes=_SIGN,
)
_add(
    "kumar2024_qat_fp",
    "kumar_qat",
    _KUMAR,
    _KUMAR_BASE | {"gamma_w": 2.8111, "n_w": 0.1240},
    units=_KUMAR_UNITS,
    notes=f"{_SIGN} Floating-point weights E2M0 E3M0 E4M1 E3M2 E4M2 E5M2 E5M6 for 3-8 and 12 bits; "
    "base constants are those of the integer fit.",
)
_add(
    "kumar2024_ptq",
    "kumar_ptq",
    _KUMAR,
    {"C_T": 0.0598, "gamma_D": 0.5068, "gamma_N": 0.3439, "gamma_post": 0.5907, "b_post": 1.1277},
    units=_KUMAR_UNITS,
    notes="b_post multiplies C_T by exp(b_post); the paper's D_crit examples leave it out.",
)
_add(
    "sun2025",
    "sun_fp",
    "Sun et al. 2025, arXiv:2501.02423",
    {
        "n": 69.2343,
        "alpha": 0.2368,
        "d": 68973.0621,
        "beta": 0.5162,
        "epsilon": 1.9061,
        "gamma": 11334.5197,
        "delta": 3.1926,
        "nu": 2.9543,
    },
    units="N without embeddings, D tokens, E and M bits, B elements per scale, loss nats/token",
    notes="Weights (forward and backward) and the activations of the weight gradient are "
    "quantized; forward activations and output gradients are not. Channel-wise: log2 B = 13.1567.",
)
_CHEN_BASE = {"A": 237.7042, "B": 596.2490, "E": 1.9279, "alpha": 0.3022, "beta": 0.3022}
for _key, _k, _n, _d, _g in (
    ("w4a4", 0.1582, 0.2186, 0.0745, 0.7779),
    ("w4a16", 0.2522, 0.3589, 0.1610, 0.3533),
    ("w16a4", 0.1004, 0.1816, 0.0331, 0.9812),
    ("w4a4_fc2_8bit", 0.3519, 0.2637, 0.0964, 0.3407),
    ("w16a4_fc2_8bit", 0.1273, 0.2347, 0.0827, 0.4491),
):
    _add(
        f"chen2025_{_key}",
        "qat_granularity",
        "Chen et al. 2025, arXiv:2505.14302",
        {"k": _k, "gamma_N": _n, "gamma_D": _d, "gamma_G": _g},
        units="N parameters, D tokens, G elements per scale, delta nats/token",
        notes="INT4 only; the text prints .4471 for the last exponent of w16a4_fc2_8bit.",
    )
_add(
    "chen2025_base",
    "chinchilla",
    "Chen et al. 2025, arXiv:2505.14302",
    _CHEN_BASE,
    notes="The unquantized runs on OLMo2-mix; alpha and beta were tied.",
)
_add(
    "ouyang2024",
    "qid",
    "Ouyang et al. 2024, arXiv:2411.17691",
    {"k": 0.017, "alpha": 0.2261, "beta": 0.5251, "gamma": 5.4967},
    units="N without embeddings, D tokens, P bits (2 to 4), delta nats/token",
    notes="GPTQ on Pythia checkpoints; read from captions.",
)
_QUEST_EFF = {
    "1": 0.0205046859, "2": 0.151870911, "3": 0.433126203, "4": 0.691831718, "8": 1.01619263,
    "16": 1.0, "FP4": 0.629639028, "S48": 0.381222089, "1NOH": 0.0155770373, "2NOH": 0.0784119072,
    "3NOH": 0.322107861, "4NOH": 0.603270679, "8NOH": 0.937628722, "1WO": 0.138419575,
    "2WO": 0.413717453, "3WO": 0.653058816, "4WO": 0.840434222,
}  # fmt: skip
_add(
    "quest2025",
    "decoupled_eff",
    "QuEST, Panferov et al. 2025, arXiv:2502.05003",
    {
        "A": 8.134031011055859,
        "B": 86.41190623830154,
        "E": 0.0014232897805828435,
        "alpha": 0.062726522,
        "beta": 0.241288351,
    }
    | {f"eff_{name}": value for name, value in _QUEST_EFF.items()},
    options=(("labels", tuple(sorted(_QUEST_EFF))), ("reference", "16")),
    units="N without embeddings, D tokens, loss nats/token on C4",
    notes="E is not identified and alpha is small: do not extrapolate in N. Labels: bits of "
    "weights and activations; NOH without Hadamard; WO weights only; S48 is 4:8 sparse INT4.",
)
for _key, _a, _e in (("trilm", 185.0, 1.76), ("floatlm", 159.0, 1.67)):
    _add(
        f"spectra2024_{_key}",
        "powerlaw_offset",
        "Spectra, Kaushal et al. 2024, arXiv:2407.12327",
        {"A": _a, "alpha": 0.26, "E": _e},
        units="N parameters, loss nats/token after 300B tokens",
        notes="Rounded constants: the gaps that are claimed between ternary and float, 7 % at "
        "15.6B and 6 % at 330B parameters, come out as 7.3 and 6.4 %.",
    )
_add(
    "spectra2025_trilm",
    "chinchilla",
    "Spectra 1.1, arXiv:2506.23025",
    {"A": 4.73, "B": 5.18, "E": 2.19, "alpha": 0.32, "beta": 0.81},
    units="N in millions and D in billions (not stated; only these give sane losses)",
    notes="Read second-hand.",
)
