"""Laws over families, bit-widths and metrics: Spectra, k-bit offsets, error from loss, sparsity."""

import numpy as np

from scaling.laws import labels as tags
from scaling.laws.law import Law, Param, coefficient, exponent
from scaling.laws.registry import register


def _seed_families(names: tuple[str, ...]):
    def seed(x, y):
        from scipy.optimize import nnls

        found = []
        log_n = np.log(x["N"])
        masks = [tags.is_label(x["family"], name) for name in names]
        for alpha in np.geomspace(0.05, 0.9, 40):
            size = np.exp(-alpha * (log_n - log_n.mean()))
            columns = np.stack([*(m * size for m in masks), *masks], -1)
            c, error = nnls(columns / y[:, None], np.ones_like(y))
            c = np.maximum(c, 1e-6)
            params = {"alpha": float(alpha)}
            for j, name in enumerate(names):
                params[f"A_{name}"] = c[j] * np.exp(alpha * log_n.mean())
                params[f"E_{name}"] = c[len(names) + j]
            found.append((error, params))
        return [params for _, params in sorted(found, key=lambda pair: pair[0])[:8]]

    return seed


@register
def family_powerlaw(labels: tuple[str, ...] = ()) -> Law:
    """Returns L = A_family N^-alpha + E_family with one exponent for all families.

    Spectra compares ternary with float models of the same data so.
    """
    names = tuple(labels)

    def formula(p, x, xp):
        amplitude = tags.pick(p, "A_", names, x["family"], xp)
        offset = tags.pick(p, "E_", names, x["family"], xp)
        return amplitude * xp.exp(-p["alpha"] * xp.log(x["N"])) + offset

    params = tuple(coefficient(f"{c}_{k}") for k in names for c in "AE")
    return Law(
        name="family_powerlaw",
        predictors=("N", "family"),
        params=(exponent("alpha", "exponent of size"), *params),
        formula=formula,
        seed=_seed_families(names) if names else None,
        bind=None if names else lambda law, x: family_powerlaw(tags.found(x["family"])),
        options=(("labels", names),),
        source="Spectra, Kaushal et al. 2024, arXiv:2407.12327",
        doc="L = A_family N^-alpha + E_family at one data size.",
    )


def _columns(x, knots: tuple[float, ...], levels: tuple[float, ...], xp) -> list:
    """Returns the columns of the linear problem: hats over the knots, then the narrow widths."""
    bits, places = xp.log2(x["total_bits"]), xp.asarray(knots)
    hats = [xp.interp(bits, places, xp.asarray(unit)) for unit in np.eye(len(knots))]
    return hats + [xp.where(xp.abs(x["P"] - k) < 1e-9, 1.0, 0.0) for k in levels[:-1]]


def _seed_error(x, y) -> list[dict[str, float]]:
    found = []
    for gamma in np.geomspace(0.05, 5.0, 40):
        columns = np.stack([np.ones_like(y), -np.exp(-gamma * x["loss"])], -1)
        (epsilon, k), *_ = np.linalg.lstsq(columns, y, rcond=None)
        if epsilon > 0 and k > 0:
            miss = float(((columns @ [epsilon, k] - y) ** 2).sum())
            found.append((miss, {"epsilon": epsilon, "k": k, "gamma": float(gamma)}))
    return [params for _, params in sorted(found, key=lambda pair: pair[0])[:5]]


@register
def kbit_offset(
    knots: tuple[float, ...] = (), levels: tuple[float, ...] = (), count: int = 4
) -> Law:
    """Returns metric = g(log2 total_bits) + offset_P with g piecewise linear.

    Args:
        knots: values of log2 total_bits at which g has its own parameter; ``count`` of them,
            evenly over the table, by default.
        levels: bit-widths; the largest has offset 0. Those of the table by default.
        count: how many knots to place.
    """
    knots, levels = tuple(knots), tuple(float(v) for v in levels)

    def bind(law, x):
        bits = np.log2(np.asarray(x["total_bits"], float))
        placed = np.linspace(bits.min(), bits.max(), count) if len(knots) == 0 else knots
        seen = levels or np.unique(np.asarray(x["P"], float))
        return kbit_offset(tuple(map(float, placed)), tuple(map(float, seen)), count)

    names = tuple(f"g_{i}" for i in range(len(knots)))
    names += tuple(f"offset_{k:g}" for k in levels[:-1])

    def formula(p, x, xp):
        return sum(p[name] * column for name, column in zip(names, _columns(x, knots, levels, xp)))

    def seed(x, y):
        solution = np.linalg.lstsq(np.stack(_columns(x, knots, levels, np), -1), y, rcond=None)[0]
        return [dict(zip(names, map(float, solution)))]

    signed = {"search": (-10.0, 10.0), "log": False, "bounds": (-np.inf, np.inf)}
    ready = bool(knots and levels)
    return Law(
        name="kbit_offset",
        predictors=("total_bits", "P"),
        params=tuple(Param(name=name, **signed) for name in names),
        formula=formula,
        target="metric",
        objective="l2",
        seed=seed if ready else None,
        bind=None if ready else bind,
        options=(("knots", knots), ("levels", levels), ("count", count)),
        source="Dettmers & Zettlemoyer 2023, arXiv:2212.09720",
        doc="metric = g(log2 total_bits) + offset_P; total_bits = N times effective bits, the "
        "metric an accuracy or a loss, the widest P without offset.",
    )


register(
    Law(
        name="error_link",
        predictors=("loss",),
        params=(
            Param(name="epsilon", search=(0.1, 1.0), doc="error of a model that knows nothing"),
            coefficient("k", "how much of it a loss of zero would remove"),
            Param(name="gamma", search=(0.05, 5.0), bounds=(1e-3, 50.0), doc="per nat"),
        ),
        formula=lambda p, x, xp: p["epsilon"] - p["k"] * xp.exp(-p["gamma"] * x["loss"]),
        seed=_seed_error,
        target="metric",
        objective="l2",
        source="Gadre et al. 2024, arXiv:2403.08540",
        doc="error = epsilon - k exp(-gamma loss): downstream error from the loss in nats/token.",
    )
)
register(
    Law(
        name="sparsity",
        predictors=("N", "D", "S"),
        params=(
            coefficient("a_S", "what sparsity removes from the size term"),
            coefficient("c_S", "what it leaves"),
            exponent("b_S", "exponent of density", search=(0.1, 2.0), upper=8.0),
            exponent("b_N", "exponent of size"),
            coefficient("B", "data part, nats; a_D of the paper is B^(1/b_D)"),
            exponent("b_D", "exponent of data"),
            coefficient("E", "irreducible loss, nats"),
        ),
        terms=lambda p, x, xp: {
            "a_S": p["b_S"] * xp.log(1 - x["S"]) - p["b_N"] * xp.log(x["N"]),
            "c_S": -p["b_N"] * xp.log(x["N"]),
            "B": -p["b_D"] * xp.log(x["D"]),
            "E": 0.0,
        },
        source="Frantar et al. 2023, arXiv:2309.08520",
        doc="L = [a_S (1-S)^b_S + c_S] N^-b_N + B D^-b_D + E; N counts nonzero parameters.",
    )
)
