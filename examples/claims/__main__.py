"""Tries the published claims of the methods in miniature and writes a table of what came out.

    python -m examples.claims                # all claims; goes on where a stopped run was
    python -m examples.claims --only s2fp8   # one of them

Rows are kept under `runs/claims`; a claim is run again when its file or the seeds change, or with
`--again`. Every verdict is computed from the rows.
"""

import argparse
import difflib
import importlib
import pathlib
import pkgutil
import sys
import time

from examples.claims import methods, report, rows
from examples.claims.claim import Claim

RESULTS = pathlib.Path(__file__).parent.parent / "results" / "claims.md"


def claims() -> dict[str, Claim]:
    """All claims by name: those that the files in `methods` list as `CLAIMS`."""
    found: dict[str, Claim] = {}
    for module in sorted(info.name for info in pkgutil.iter_modules(methods.__path__)):
        for claim in importlib.import_module(f"{methods.__name__}.{module}").CLAIMS:
            if claim.name in found:
                raise ValueError(
                    f"The claim {claim.name!r} of {module}.py has the name of another. "
                    "Give each claim its own."
                )
            found[claim.name] = claim
    return found


def chosen(names: list[str] | None) -> list[Claim]:
    """The claims asked for, in order.

    Raises:
      ValueError: If a name is unknown; near names are listed.
    """
    known = claims()
    for name in names or ():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.3)
            hint = f"Did you mean {' or '.join(near)}? " if near else ""
            raise ValueError(
                f"`--only` names a claim, but {name!r} is none. {hint}`--list` shows them all."
            )
    return [known[name] for name in names or known]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.claims",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--only", nargs="+", metavar="NAME", help="claims to try (names; default: all)")
    add("--list", action="store_true", help="list the claims and stop (flag)")
    add("--seeds", type=int, default=5, help="seeds of every arm, at least 3 (count; default: 5)")
    add("--again", action="store_true", help="run also what has a row already (flag)")
    add(
        "--rows",
        type=pathlib.Path,
        default=pathlib.Path("runs/claims"),
        metavar="DIR",
        help="folder of the rows (path; default: runs/claims)",
    )
    add(
        "--out",
        type=pathlib.Path,
        default=RESULTS,
        metavar="FILE",
        help="the table that is written (path; default: examples/results/claims.md)",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    wanted = chosen(options.only)
    if options.list:
        for claim in wanted:
            print(f"{claim.name:24} {claim.says}")
        return 0
    if options.seeds < 3:
        raise ValueError(f"`--seeds` must be at least 3, but is {options.seeds}. Give more.")
    seeds = list(range(options.seeds))
    for n, claim in enumerate(wanted, 1):
        began = time.perf_counter()
        row = None if options.again else rows.done(claim, seeds, options.rows)
        stored = row is not None
        row = rows.run(claim, seeds, options.rows) if row is None else row
        spent = "stored" if stored else f"{time.perf_counter() - began:.0f} s"
        verdict = claim.verdict(row["figures"])
        print(f"[{n}/{len(wanted)}] {claim.name:24} {verdict:14} {spent}", flush=True)
    pairs = [(c, row) for c in claims().values() if (row := rows.read(c, options.rows))]
    # A row from before its claim's file changed may know other arms.
    fresh = [(c, row) for c, row in pairs if row["source"] == rows.source(c)]
    report.write(fresh, options.out, "python -m examples.claims")
    print(f"{len(fresh)} claims in {options.out}")
    if len(fresh) < len(pairs):
        stale = ", ".join(c.name for c, row in pairs if row["source"] != rows.source(c))
        print(f"left out, because their files changed since they ran: {stale}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:
        sys.exit(f"claims: {error}")
