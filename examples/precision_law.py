"""From a results table to a plan: which size, data and number format should the next run have?

    python examples/precision_law.py                       a simulated table, about 20 seconds

    python examples/sweep_formats.py --steps 150           real runs: sizes, formats and seeds,
    python examples/sweep_formats.py --steps 600           at several lengths, into one table
    python examples/precision_law.py runs/sweep/formats.csv --recipe nearest

Reads one row per finished run (columns N, D, E, M, B and loss, or fmt instead of E, M and B),
compares laws by how well they predict the largest models from the smaller ones (with fewer than
four sizes the largest and longest runs from all others), fits the best of them with a bootstrap of
whole configurations, draws pictures and prints the plan. Everything is written into one folder:
comparison.md, fit.json, report.md, plan.md and the pictures.
"""

import argparse
import pathlib
import sys

import numpy as np

from scaling import Dataset, compare, files, fit, laws, plan, save
from scaling.capacity import gmse_of_format
from scaling.plotting import plot
from scaling.report import report
from scaling.simulate import grid, simulate
from scaling.splits import folds
from scaling.tables import parse_format

# E varies at equal M and M at equal E, so that their effects can be told apart.
LAYOUTS = ((1, 1), (1, 3), (2, 1), (3, 1), (2, 3), (3, 2), (4, 3), (8, 7))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("table", nargs="?", help="results table (path; default: a simulated one)")
    add("--map", nargs="+", default=[], metavar="NAME=COLUMN[:UNIT]", help="columns of the table")
    add("--recipe", metavar="NAME", help="keep runs of this recipe, and the float32 ones")
    add(
        "--budget",
        type=float,
        metavar="C",
        help="budget of the plan (FLOP of 16-bit products; default: 10 times the largest run's)",
    )
    add("--bootstrap", type=int, default=200, help="bootstrap draws (count; default: 200)")
    add("--noise", type=float, default=0.003, help="of the simulated losses (default: 0.003)")
    add("--seed", type=int, default=0, help="seed of noise and bootstrap (default: 0)")
    add(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("runs/precision_law"),
        metavar="DIR",
        help="folder of everything that is written (path; default: runs/precision_law)",
    )
    return parser.parse_args(arguments)


def simulated(noise: float, seed: int) -> Dataset:
    """A table like Sun et al.'s: small transformers in floating-point formats from 4 to 16 bits."""
    base = {"N": (4e7, 8.5e7, 1.5e8, 6.8e8), "D": (1e10, 2e10, 5e10, 1e11), "B": (32, 128, 512)}
    columns = grid(**base, layout=range(len(LAYOUTS)))
    layout = np.asarray(LAYOUTS)[columns.pop("layout").astype(int)]
    design = columns | {"E": layout[:, 0], "M": layout[:, 1]}
    return simulate("sun_fp", laws.published("sun2025").params, design, noise=noise, seed=seed)


def completed(table: Dataset) -> Dataset:
    """Adds what the laws read: formats by one grammar, bits of an element, error on Gaussian data.

    A format without blocks counts as scaled by channel, which matters little at its many bits.
    """
    if "E" in table and "M" in table:
        blocks = table["B"] if "B" in table else np.full(len(table), np.nan)
        names = [_name(*row) for row in zip(table["E"], table["M"], blocks)]
    else:
        names = [str(name) for name in table["fmt"]]
    known = {name: parse_format(name) for name in set(names)}
    return table.assign(
        fmt=names,
        E=[known[name].E for name in names],
        M=[known[name].M for name in names],
        B=[known[name].block for name in names],
        P=[known[name].bits for name in names],
        GMSE=[gmse_of_format(known[name]) for name in names],
    )


def _name(E: float, M: float, B: float) -> str:
    element = f"E{E:g}M{M:g}" if E else f"INT{M + 1:g}"
    common = B if np.isfinite(B) and abs(np.log2(B) - 13.1567) > 1e-6 else None
    return f"{element}@{common:g}" if common else f"{element}@channel"


def candidates(table: Dataset) -> list:
    """The laws that are compared: one without precision, and one of every kind with it."""
    formats = sorted(set(table["fmt"]), key=lambda name: parse_format(name).bits)
    found = ["chinchilla", "kumar_equal", "capacity_tanh"]
    if len(formats) <= 20:
        found.append(laws.get("decoupled_eff", reference=formats[-1]))
    return [*found, "sun_fp"]


def held_out(table: Dataset) -> str:
    """How laws are judged: two sizes that are left say nothing about the exponent of size."""
    return "holdout:N:max" if len(np.unique(table["N"])) > 3 else "holdout:C:max"


def configurations(table: Dataset) -> np.ndarray:
    """One label per configuration: its seeds share what the law misses, so they stay together."""
    return np.array([f"{n:g} {d:g} {f}" for n, d, f in zip(table["N"], table["D"], table["fmt"])])


def pictures(fitted, others: list, table: Dataset, out: pathlib.Path) -> list[str]:
    """Draws the fitted law, and capacities of all laws; returns the names of the files."""
    test = folds(table, held_out(table))[0].test
    before = fit(table.take(~test), fitted.law)
    held = {"B": float(np.median(table["B"]))} if "B" in fitted.law.predictors else {}
    options: dict[str, dict] = {"pareto": {"formats": best_of_width(table)}, "residuals": {}}
    if {"E", "P"} & set(fitted.law.predictors):
        options["precision-vs-compute"] = {"held": held}
    plot(before, "extrapolation", out / "extrapolation.png", held_out=table.take(test))
    precise = [f for f in others if f is not None and f.law.name != "chinchilla"]
    if precise:
        plot(precise, "capacity", out / "capacity.png", held={"B": float(np.median(table["B"]))})
    for kind, given in options.items():
        plot(fitted, kind, out / f"{kind}.png", **given)
    return ["extrapolation.png", *(["capacity.png"] if precise else []),
            *(f"{kind}.png" for kind in options)]  # fmt: skip


def best_of_width(table: Dataset) -> list[str]:
    """The format of every width that lost least, as many as a picture can tell apart."""
    names = offered(table)
    cells = np.char.add(table["N"].astype(str), table["D"].astype(str))
    loss = np.log(table["loss"])
    # Against the mean of equal size and data, because not every format was run everywhere.
    extra = loss - np.array([loss[cells == cell].mean() for cell in cells])
    mean = {name: extra[table["fmt"] == name].mean() for name in names}
    widths = {parse_format(name).bits: [] for name in names}
    for name in names:
        widths[parse_format(name).bits].append(name)
    chosen = [min(group, key=lambda name: mean[name]) for _, group in sorted(widths.items())]
    return chosen if len(chosen) <= 8 else [*chosen[:7], chosen[-1]]


def offered(table: Dataset) -> list[str]:
    """Formats to choose among: the table's, at its most common block, fewest bits first."""
    blocks, counts = np.unique(table["B"], return_counts=True)
    common = blocks[np.argmax(counts)]
    names = {n for n, b in zip(table["fmt"], table["B"]) if b == common}
    rest = {n for n in set(table["fmt"]) if not any(_element(n) == _element(m) for m in names)}
    return sorted(names | rest, key=lambda name: (parse_format(name).bits, name))


def _element(name: str) -> str:
    return name.partition("@")[0]


def read(options: argparse.Namespace) -> Dataset:
    """The table that the options name, or a simulated one, with every column that laws read."""
    if options.table is None:
        return completed(simulated(options.noise, options.seed))
    named = dict(word.split("=", 1) for word in options.map)
    table = Dataset.read(options.table, map=named, on_bad="drop")
    if options.recipe is not None:
        table = table.take(np.isin(table["recipe"], (options.recipe, "float32")))
    return completed(table)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    table = read(options)
    print(f"{len(table)} runs of {table.source}, formats {', '.join(offered(table))}")
    for line, why in table.dropped:
        print(f"left out line {line}: {why}")

    ranking = compare(table, candidates(table), [held_out(table)])
    files.write_text(options.out / "comparison.md", ranking.to_markdown() + "\n")
    print(f"\n{ranking.to_markdown()}\n")
    best = ranking.rows[0]
    if best.fit is None:
        raise ValueError(f"no law could be fitted: {best.reasons[0]}")

    draws = {"bootstrap": options.bootstrap, "seed": options.seed, "group": configurations(table)}
    fitted = fit(table, best.fit.law, progress=sys.stderr.isatty(), **draws)
    save(fitted, options.out / "fit.json")
    files.write_text(options.out / "report.md", report(fitted))
    compute = options.budget or 10 * float((6 * table["N"] * table["D"]).max())
    # A law of bits alone cannot tell the splits of a width apart: the best of each is offered.
    splits = {"E", "GMSE", "fmt"} & set(fitted.law.predictors)
    found = plan(fitted, compute, formats=offered(table) if splits else best_of_width(table))
    files.write_text(options.out / "plan.md", found.to_markdown() + "\n")
    print(found.to_markdown())

    drawn = ", ".join(pictures(fitted, [row.fit for row in ranking.rows], table, options.out))
    print(f"\nwrote comparison.md, fit.json, report.md, plan.md, {drawn} to {options.out}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, ImportError, OSError) as error:
        sys.exit(f"precision_law: {error}")
