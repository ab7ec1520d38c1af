"""Synthetic results tables: a law, its constants, a design and noise; for tests and for planning.

A simulated table answers, before any run, whether a design can determine a law at all. Noise is
log-normal and multiplicative for losses and degradations, additive for metrics.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scaling.capacity import gmse_uniform
from scaling.laws import Law, get, published
from scaling.tables.dataset import Dataset
from scaling.tables.formats import CHANNEL_BLOCK

#: Sizes and data of Kumar et al. 2024, which every integer design here uses.
_SIZES = (3e7, 6e7, 1.1e8, 2.2e8)
_DATA = (1.5e9, 3e9, 6e9, 1.3e10, 2.6e10)
_FULL = 16.0


def grid(**levels: Any) -> dict[str, np.ndarray]:
    """Returns the columns of a full factorial design.

    Args:
        **levels: values by predictor; the last one varies fastest.
    """
    rows = list(itertools.product(*levels.values()))
    return {name: np.array([row[i] for row in rows]) for i, name in enumerate(levels)}


def with_settings(
    base: Mapping[str, Any], names: Sequence[str], settings: Sequence[Sequence[float]]
) -> dict[str, np.ndarray]:
    """Returns a factorial design of ``base`` crossed with listed settings of ``names``."""
    columns = grid(**base, setting=range(len(settings)))
    which = columns.pop("setting").astype(int)
    table = np.asarray(settings, float)
    return columns | {name: table[which, j] for j, name in enumerate(names)}


def _lp_settings() -> list[tuple[float, ...]]:
    """One tensor at a time, then all together, then none: 28 settings of (P_w, P_a, P_kv)."""
    one = [(b, _FULL, _FULL) for b in (3, 4, 5, 6, 7, 8, 10, 12)]
    one += [(_FULL, b, _FULL) for b in (4, 5, 6, 7, 8, 10, 12)]
    one += [(_FULL, _FULL, b) for b in (4, 5, 6, 7, 8, 10, 12)]
    return [*one, *((b, b, b) for b in (4, 5, 6, 8, 12)), (_FULL, _FULL, _FULL)]


def _unified_settings() -> list[tuple[float, ...]]:
    """The same, not quantized afterwards, and the 16-bit and joint runs quantized afterwards."""
    trained = [(*s, s[0]) for s in _lp_settings() if max(min(s), 4) in (4, 6, 8, _FULL)]
    singles = [s for s in _lp_settings() if min(s) in (5, 8) and s.count(_FULL) == 2]
    later = [(*s, post) for s in singles for post in (3.0, 4.0)]
    return trained + later + [(_FULL, _FULL, _FULL, p) for p in (3.0, 4.0, 5.0, 6.0)]


def _sun_layouts() -> list[tuple[float, float]]:
    return [(1, 1), (1, 2), (1, 3), (1, 5), (2, 1), (2, 3), (3, 1), (4, 3), (5, 2), (4, 5), (6, 1)]


def default_design(law: str | Law) -> dict[str, np.ndarray]:
    """Returns a design on which ``law`` is well determined, in raw units.

    Raises:
        ValueError: there is no default design for the law's predictors.
    """
    law = get(law)
    wide = {"N": np.geomspace(5e7, 1.6e10, 6), "D": np.geomspace(1e9, 3e11, 6)}
    kumar = {"N": _SIZES, "D": _DATA}
    sun = {"N": (4e7, 8.5e7, 1.5e8, 6.8e8), "D": (1e10, 2e10, 5e10, 1e11)}
    tensors = ("P_w", "P_a", "P_kv")
    blocks = (32, 128, 512, CHANNEL_BLOCK)
    exact = {
        "kumar_lp": lambda: with_settings(kumar, tensors, _lp_settings()),
        "kumar_unified": lambda: with_settings(kumar, (*tensors, "P_post"), _unified_settings()),
        "sun_fp": lambda: with_settings(
            sun | {"B": blocks}, ("E", "M"), [tuple(map(float, s)) for s in _sun_layouts()]
        ),
        "kumar_ptq": lambda: grid(**kumar, P_post=(3, 4, 5, 6)),
        "decoupled_eff": lambda: grid(**kumar, fmt=("BF16", "INT2", "INT4", "INT8")),
        "family_powerlaw": lambda: grid(N=wide["N"], family=("TriLM", "FloatLM")),
        "kbit_offset": lambda: grid(total_bits=np.geomspace(1e9, 1e12, 12), P=(3, 4, 8, 16)),
        "qid": lambda: grid(N=np.geomspace(1.6e8, 1.2e10, 6), D=np.geomspace(5e9, 3e11, 12),
                            P=(2, 3, 4)),
    }  # fmt: skip
    if law.name in exact:
        return exact[law.name]()
    axes = wide | {
        "C": np.geomspace(1e18, 1e22, 8),
        "E": (1, 2, 3, 4, 5),
        "M": (1, 2, 3, 5, 7),
        "B": (32, 64, 128, 256, CHANNEL_BLOCK),
        "P": (3, 4, 5, 6, 7, 8, 10, 12),
        "loss": np.linspace(2.0, 4.5, 12),
        "P_w": (3, 4, 5, 6, 7, 8, 10, 12),
        "S": (0.0, 0.25, 0.5, 0.75, 0.9),
        "GMSE": [gmse_uniform(k) for k in (1, 2, 3, 4, 5, 8)],
        "GMSE_w": [gmse_uniform(k) for k in (1, 2, 3, 4, 8)],
        "GMSE_a": [gmse_uniform(k) for k in (1, 2, 3, 4, 8)],
    }
    unknown = [name for name in law.predictors if name not in axes]
    if unknown:
        raise ValueError(f"There is no default design over {unknown}; pass a design.")
    return grid(**{name: axes[name] for name in law.predictors})


#: The constants that stand for a law: one published set or several laid over each other, and what
#: no paper prints, at plausible values.
_TYPICAL: dict[str, tuple[tuple[str, ...], dict[str, float]]] = {
    "kaplan_n": (("kaplan2020_n",), {}),
    "kaplan_d": (("kaplan2020_d",), {}),
    "kaplan_nd": (("kaplan2020_nd",), {}),
    "powerlaw_offset": (("spectra2024_trilm",), {}),
    "chinchilla": (("besiroglu2024",), {}),
    "gadre": (("gadre2024_c4",), {}),
    "kumar_qat": (("kumar2024_qat",), {}),
    "kumar_lp": (("kumar2024",), {}),
    "kumar_equal": (("kumar2024_qat",), {"gamma": 2.2102, "n": 1.0}),
    "kumar_ptq": (("kumar2024_ptq",), {"b_post": 0.0}),
    "kumar_unified": (
        ("kumar2024", "kumar2024_ptq"),
        {"b_post": 0.0, "C_w": 0.4, "C_a": 0.6, "C_kv": 0.9},
    ),
    "sun_fp": (("sun2025",), {}),
    "sun_e": (("sun2025",), {"gamma": 4e4}),
    "sun_m": (("sun2025",), {"gamma": 4e4}),
    "sun_block": (("sun2025",), {"kappa": 4e5}),
    "decoupled_eff": (
        ("chen2025_base",),
        {"eff_BF16": 1.0, "eff_INT2": 0.152, "eff_INT4": 0.692, "eff_INT8": 0.98},
    ),
    "capacity_tanh": (
        ("chen2025_base",),
        {"F": 0.412, "C": 3.20, "F_w": 0.493, "C_w": 1.60, "F_a": 0.516, "C_a": 1.63},
    ),
    "capacity_logistic": (
        ("chen2025_base",),
        {"K": 180.0, "q": 1.65, "K_w": 60.0, "q_w": 1.4, "K_a": 90.0, "q_a": 1.5},
    ),
    "qat_granularity": (("chen2025_w4a4",), {}),
    "qat_granularity_loss": (("chen2025_base", "chen2025_w4a4"), {}),
    "qid": (("ouyang2024",), {}),
    "family_powerlaw": (
        (),
        {"alpha": 0.26, "A_TriLM": 185, "E_TriLM": 1.76, "A_FloatLM": 159, "E_FloatLM": 1.67},
    ),
    "kbit_offset": (
        (),
        {"g_0": 0.35, "g_1": 0.45, "g_2": 0.55, "g_3": 0.62}
        | {"offset_3": 0.01, "offset_4": 0.04, "offset_8": 0.02},
    ),
    "error_link": ((), {"epsilon": 0.85, "k": 2.1, "gamma": 0.75}),
    "sparsity": (
        (),
        {"a_S": 240.0, "c_S": 170.0, "b_S": 0.7, "b_N": 0.34, "B": 2085.0, "b_D": 0.366, "E": 1.8},
    ),
}


def typical(law: str | Law) -> dict[str, float]:
    """Returns constants that stand for a law: published ones where they are printed.

    Raises:
        ValueError: none are known, as for a law of the user's own.
    """
    law = get(law)
    if law.name not in _TYPICAL:
        raise ValueError(f"There are no typical constants for {law.name!r}; pass params.")
    sources, extra = _TYPICAL[law.name]
    known: dict[str, float] = {}
    for source in sources:
        known |= published(source).params
    known |= extra
    wanted = law.bind(law, default_design(law)) if law.bind else law
    return {p.name: known.get(p.name, p.fixed) for p in wanted.params}  # pyright: ignore


def simulate(
    law: str | Law,
    params: Mapping[str, float] | None = None,
    design: Mapping[str, Any] | None = None,
    *,
    noise: float = 0.0,
    seed: int = 0,
) -> Dataset:
    """Simulates a results table.

    Args:
        law: the law, or its name.
        params: natural parameters; typical ones by default.
        design: predictor columns; the law's default design by default.
        noise: standard deviation of the log target, or of the target itself for metrics.
        seed: fixes the noise.

    Returns:
        The table with the design's columns and the law's target.

    Raises:
        ValueError: a parameter or a predictor is missing, or the noise is negative.
    """
    law = get(law)
    if noise < 0:
        raise ValueError(f"noise must not be negative, got {noise}.")
    design = default_design(law) if design is None else dict(design)
    columns = {k: np.asarray(v) for k, v in design.items()}
    bound = law.bind(law, law.columns(columns)) if law.bind else law
    values = np.asarray(bound.predict(typical(law) if params is None else params, columns), float)
    draw = np.random.default_rng(seed).normal(0.0, noise, values.shape) if noise else 0.0
    target = values + draw if law.target == "metric" else values * np.exp(draw)
    return Dataset(columns | {law.target: target}, source=f"simulated {law.name}")
