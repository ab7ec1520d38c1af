"""Judges a design before it is fitted: levels, ranges, collinearity, repeats, units, schedules.

What a table cannot tell apart no optimizer can; these checks say so first, in sentences. What the
Jacobian says of single parameters stands in `identifiability`.
"""

import numpy as np

from scaling.findings import Finding
from scaling.laws import Law, get
from scaling.tables.identifiability import identifiability
from scaling.tables.predictors import Table, axes

#: Variance inflation above which a predictor is called collinear with the others.
_INFLATION = 5.0
#: Smallest plausible value of predictors that people write in thousands, millions or billions.
_PLAUSIBLE = {"N": 1e4, "D": 1e5, "C": 1e10}


def check(ds: Table, law: str | Law) -> list[Finding]:
    """Judges the table for a law.

    Args:
        ds: the table.
        law: the law, or its name.

    Returns:
        Findings, worst first; an empty list where nothing is wrong.

    Raises:
        ValueError: a column of the law is missing, or a row has no value.
    """
    law = get(law)
    ds = ds.complete(law)
    law = law.bind(law, ds.predictors(law)) if law.bind else law
    found = levels(ds, law) + collinearity(ds, law) + repeats(ds, law)
    found += units(ds, law) + schedules(ds)
    if law.target == "delta":
        found += deltas(ds)
    if not any(f.severity == "error" for f in found):
        fatal = identifiability(ds, law)
        # A predictor that never varies is said once, by the finding that stops the fit.
        still = {name for f in fatal for name in f.details.get("predictors", ())}
        few = [f for f in found if f.code == "too_few_levels" and f.details["predictor"] in still]
        found = [f for f in found if f not in few]
        found += fatal
    return sorted(found, key=lambda f: ("error", "warning", "info").index(f.severity))


def levels(ds: Table, law: Law) -> list[Finding]:
    """Finds predictors with too few distinct values for the parameters that act on them."""
    found = []
    shifted = {
        name
        for name in law.predictors
        for p in law.params
        if p.fixed is None and p.name in (f"n_{name.removeprefix('P_')}", "n") and name[0] == "P"
        and len(law.params) > 5
    }  # fmt: skip
    for name, values in axes(ds, law).items():
        count = len(np.unique(np.round(values, 6)))
        need = 4 if name in shifted else 3
        if count >= need:
            continue
        found.append(
            Finding(
                code="too_few_levels",
                severity="warning",
                message=f"{name} takes {count} distinct value(s), and {need} are needed to see the "
                "shape of its effect; add runs, or choose a law without it.",
                details={"predictor": name, "levels": count, "needed": need},
            )
        )
    return found


def collinearity(ds: Table, law: Law) -> list[Finding]:
    """Finds predictors that the other predictors explain almost entirely."""
    columns = {k: v for k, v in axes(ds, law).items() if np.ptp(v) > 1e-9}
    names = list(columns)
    if len(names) < 2 or len(ds) <= len(names) + 1:
        return []
    design = np.stack([columns[n] for n in names], -1)
    design = (design - design.mean(0)) / design.std(0)
    found = []
    for j, name in enumerate(names):
        others = np.delete(design, j, axis=1)
        fitted = others @ np.linalg.lstsq(others, design[:, j], rcond=None)[0]
        unexplained = float(((design[:, j] - fitted) ** 2).mean())
        if unexplained * _INFLATION < 1:
            found.append((name, 1 / max(unexplained, 1e-12)))
    if not found:
        return []
    worst = ", ".join(f"{name} ({inflation:.3g})" for name, inflation in found)
    return [
        Finding(
            code="collinear_design",
            severity="warning",
            message=f"Predictors move together (variance inflation: {worst}); their exponents will "
            "have wide intervals. Add runs that break the pattern, such as other D at equal N.",
            details={"inflation": dict(found)},
        )
    ]


def repeats(ds: Table, law: Law) -> list[Finding]:
    """Finds rows that agree in every predictor and in the target."""
    columns = [*ds.predictors(law).values(), ds.target(law)]
    keys = list(zip(*[c.tolist() for c in columns]))
    first: dict[tuple, int] = {}
    pairs = []
    for i, key in enumerate(keys):
        if key in first:
            pairs.append((int(ds.lines[first[key]]), int(ds.lines[i])))
        first.setdefault(key, i)
    if not pairs:
        return []
    shown = ", ".join(f"{a} and {b}" for a, b in pairs[:5])
    return [
        Finding(
            code="duplicates",
            severity="warning",
            message=f"{len(pairs)} row(s) repeat another exactly (lines {shown}); repeats narrow "
            "every interval without adding knowledge. Remove them if they are not real reruns.",
            details={"lines": pairs},
        )
    ]


def units(ds: Table, law: Law) -> list[Finding]:
    """Finds predictors that look as if they were written in thousands, millions or billions."""
    found = []
    for name in law.predictors:
        smallest = _PLAUSIBLE.get(name)
        if smallest is None:
            continue
        median = float(np.median(ds[name]))
        if median < smallest:
            found.append(
                Finding(
                    code="units_suspect",
                    severity="warning",
                    message=f"The median of {name} is {median:g}; raw counts are expected. If it "
                    f"is in millions, say so: --unit {name}=1e6, or map={{{name!r}: "
                    f"'{name}:1e6'}} in Python.",
                    details={"predictor": name, "median": median},
                )
            )
    if law.target == "loss" and float(np.median(ds["loss"])) > 15:
        median = float(np.median(ds["loss"]))
        found.append(
            Finding(
                code="units_suspect",
                severity="warning",
                message=f"The median loss is {median:g}; nats per token are expected. Perplexities "
                "are exponentials of losses: take their logarithm.",
                details={"predictor": "loss", "median": median},
            )
        )
    return found


def schedules(ds: Table) -> list[Finding]:
    """Finds tables that mix schedules, or finished with unfinished runs."""
    found = []
    if "schedule" in ds and len(kinds := np.unique(ds["schedule"])) > 1:
        found.append(f"schedules {', '.join(map(str, kinds))}")
    if "final" in ds:
        words = np.char.lower(ds["final"].astype(str))
        unfinished = ~np.isin(words, ("true", "1", "1.0", "yes"))
        if unfinished.any() and not unfinished.all():
            found.append(f"{int(unfinished.sum())} checkpoint(s) that are not final")
    if not found:
        return []
    return [
        Finding(
            code="mixed_schedules",
            severity="warning",
            message=f"The table mixes {' and '.join(found)}; a law describes finished runs of one "
            "schedule. Fit them apart, or keep the final rows.",
        )
    ]


def deltas(ds: Table) -> list[Finding]:
    """Finds degradations that have no logarithm."""
    values = np.asarray(ds["delta"], float)
    bad = np.flatnonzero(values <= 0)
    if not len(bad):
        return []
    lines = ", ".join(str(int(line)) for line in ds.lines[bad[:10]])
    return [
        Finding(
            code="negative_delta",
            severity="error",
            message=f"{len(bad)} degradation(s) are not positive (lines {lines}), so their "
            "logarithm does not exist. Model the loss itself, leave the rows out (--drop-bad, in "
            "Python on_bad='drop'), or choose the objective l2.",
            details={"lines": [int(line) for line in ds.lines[bad]]},
        )
    ]
