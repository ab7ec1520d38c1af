"""How words on the command line become values: tables, laws, named numbers, fits."""

import argparse
import sys
from collections.abc import Callable, Iterable
from typing import Any

from scaling import laws
from scaling.findings import Finding
from scaling.laws import Law
from scaling.tables.dataset import Dataset

#: Short names that people use for the laws of precision.
ALIASES = {"fp": "sun_fp", "qat": "kumar_qat", "lp": "kumar_lp", "ptq": "kumar_ptq"}


def add_table(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that say which table is read, and how."""
    add = parser.add_argument
    add("table", help="results table: CSV, TSV, JSON, JSONL or Parquet (path)")
    add(
        "--map",
        nargs="+",
        default=[],
        metavar="NAME=COLUMN[:UNIT]",
        help="where a quantity is in the table, as in N=params_m:1e6 or D=tokens:B",
    )
    add("--x", nargs="+", metavar="COLUMN", help="columns of the law's predictors, in its order")
    add("--loss", metavar="COLUMN", help="column of what the law predicts")
    add("--unit", nargs="+", default=[], metavar="NAME=UNIT", help="units, as in N=M or D=1e9")
    add("--derive", nargs="+", default=[], choices=("C", "D"), help="compute C or D from 6 N D")
    add("--drop-bad", action="store_true", help="leave bad rows out instead of stopping")
    add("--only", metavar="CONDITION", help="keep the rows that meet it, as in 'N>1e8' or fmt=BF16")


def read_table(options: argparse.Namespace, law: Law | None = None) -> Dataset:
    """Reads the table that the options name.

    Raises:
        ValueError: the table, a column or a condition is not as the options say.
    """
    named = pairs(options.map, "--map")
    if options.x is not None:
        if law is None or len(options.x) != len(law.predictors):
            wanted = law.predictors if law else ()
            raise ValueError(
                f"--x needs one column for each of {', '.join(wanted)}, got {len(options.x)}."
            )
        named |= dict(zip(law.predictors, options.x))
    if options.loss is not None:
        named[law.target if law else "loss"] = options.loss
    for name, unit in pairs(options.unit, "--unit").items():
        column, _, given = named.get(name, name).partition(":")
        if given:
            raise ValueError(f"--unit {name}={unit}: --map gives {name} the unit {given} already.")
        named[name] = f"{column}:{unit}"
    mapped = {k: v for k, v in named.items() if k != v}
    on_bad = "drop" if options.drop_bad else "raise"
    ds = Dataset.read(options.table, map=mapped, derive=options.derive, on_bad=on_bad)
    return ds if options.only is None else ds.take(meets(ds, options.only, "--only"))


def meets(ds: Dataset, text: str, option: str) -> Any:
    """Returns the mask (n,) of rows that meet a condition such as N>5e8 or fmt=BF16.

    Raises:
        ValueError: the condition is not understood, or holds for no row or for all.
    """
    from scaling.splits import condition

    mask = condition(ds, text)
    if not mask.any() or (mask.all() and option == "--holdout"):
        raise ValueError(f"{option} {text!r} holds for {int(mask.sum())} of {len(ds)} rows.")
    return mask


def whole(least: int) -> Callable[[str], int]:
    """Returns a type of argument: a whole number of at least ``least``."""

    def convert(text: str) -> int:
        if not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"needs a whole number from {least}, got {text!r}")
        return int(text)

    return convert


def pairs(words: Iterable[str], option: str) -> dict[str, str]:
    """Splits NAME=VALUE words.

    Raises:
        ValueError: a word has no "=", or a name comes twice.
    """
    found: dict[str, str] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not (sign and name and value):
            raise ValueError(f"{option} takes NAME=VALUE, got {word!r}.")
        if name in found:
            raise ValueError(f"{option} names {name!r} twice.")
        found[name] = value
    return found


def number(text: str, what: str) -> float:
    """Returns a finite number; ValueError names ``what`` was wanted."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise ValueError(f"{what} needs a number, got {text!r}.")
    return value


def numbers(words: Iterable[str], option: str) -> dict[str, float]:
    """Splits NAME=NUMBER words."""
    return {k: number(v, f"{option} {k}") for k, v in pairs(words, option).items()}


def find_law(text: str) -> Law:
    """Returns a law by name, with options behind colons: kumar_equal:factors=2:shifts=false.

    Raises:
        ValueError: the name or an option is unknown.
    """
    name, *rest = text.split(":")
    name = ALIASES.get(name, name)
    usual = dict(laws.get(name).options)
    given = pairs(rest, "a law's option")
    unknown = sorted(set(given) - set(usual))
    if unknown:
        raise ValueError(
            f"Law {name!r} does not take {', '.join(unknown)}; see `scaling laws show {name}`."
        )
    return laws.get(name, **{k: _like(usual[k], v, k) for k, v in given.items()})


def _like(usual: Any, text: str, what: str) -> Any:
    """Reads an option as what it usually is; one that is usually unset is a word."""
    if isinstance(usual, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{what} is true or false, got {text!r}.")
        return text.lower() == "true"
    if isinstance(usual, int) and text.isdigit():
        return int(text)
    if isinstance(usual, int | float):
        return number(text, what)
    return tuple(text.split(",")) if isinstance(usual, tuple) else text


def find_fit(text: str) -> Any:
    """Returns a saved fit by path, or published constants as published:NAME."""
    kind, _, name = text.partition(":")
    if kind == "published":
        return laws.published(name)
    from scaling.storage import load

    return load(text)


def interval(text: str, what: str) -> tuple[float | None, float | None]:
    """Returns (low, high) of LOW:HIGH, where an empty side is open; one number means both."""
    low, sign, high = text.partition(":")
    if not sign:
        return number(low, what), number(low, what)
    return (number(low, what) if low else None), (number(high, what) if high else None)


def tell(findings: Iterable[Finding]) -> None:
    """Prints findings on stderr, where they do not disturb a result that is piped on."""
    for finding in findings:
        print(finding, file=sys.stderr)
