"""Writes what came of the claims as Markdown: a table of verdicts, then every figure."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from examples.claims.claim import CONFIDENCE, Claim, Difference

HEAD = """\
# Published claims, tried in miniature

Made by `{command}`, which `make claims` calls. Each claim is tried on a problem that two CPU cores
train in a minute or two, with the same {seeds} seeds in every arm (they decide parameters, data
order and noise). A verdict is computed from the differences seed by seed and their
{confidence:.0f} % Student interval: *holds* and *does not hold* where the interval says so, *within
noise* where it does not. The published figures are of models thousands of times larger, so what
can be compared is the ordering, not the size of a gap; "known from" says what was read for them.

Machine: {machine}. Versions: {versions}.
{verdicts}; {minutes:.0f} minutes of processor time in all, compilation included.
"""


def write(
    pairs: Sequence[tuple[Claim, Mapping[str, Any]]], path: pathlib.Path, command: str
) -> None:
    """Writes the report of claims with their rows, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(document(pairs, command))
    partial.replace(path)


def document(pairs: Sequence[tuple[Claim, Mapping[str, Any]]], command: str) -> str:
    """The whole report."""
    rows = [row for _, row in pairs]
    verdicts = [claim.verdict(row["figures"]) for claim, row in pairs]
    counts = [f"{verdicts.count(v)} {v}" for v in dict.fromkeys(sorted(verdicts, reverse=True))]
    head = HEAD.format(
        command=command,
        confidence=100 * CONFIDENCE,
        seeds=_distinct(str(len(row["seeds"])) for row in rows),
        machine=_distinct(row["machine"] for row in rows),
        versions=_distinct(_named(row["versions"]) for row in rows),
        verdicts=f"{len(pairs)} claims: " + ", ".join(counts),
        minutes=sum(row["cpu_seconds"] for row in rows) / 60,
    )
    table = [
        "| method | claim | published | known from | verdict here |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| `{claim.method}` | [{claim.says}](#{claim.name}) | {claim.published} "
            f"| {claim.evidence} | **{verdict}** |"
            for (claim, _), verdict in zip(pairs, verdicts)
        ),
    ]
    parts = [head, "\n".join(table) + "\n", *(section(claim, row) for claim, row in pairs)]
    return "\n".join(parts)


def section(claim: Claim, row: Mapping[str, Any]) -> str:
    """The figures and comparisons of one claim."""
    lines = [f"## {claim.name}", "", f"{claim.says} {claim.setting}"]
    lines += ["", claim.note] if claim.note else []
    lines += ["", f"| arm | {claim.figure} | standard error |", "| --- | ---: | ---: |"]
    lines += [f"| {arm} | {_figure(values)} |" for arm, values in row["figures"].items()]
    lines += [
        "",
        "| expected | difference | 95 % interval | verdict |",
        "| --- | ---: | ---: | --- |",
    ]
    for expected, difference, verdict in claim.differences(row["figures"]):
        sign = 1.0 if claim.lower_is_better else -1.0
        lines.append(f"| {expected} | {_difference(difference, sign)} | {verdict} |")
    spent = f"{row['cpu_seconds']:.0f} seconds of processor time"
    lines += ["", f"{len(row['seeds'])} seeds, {spent}.", ""]
    return "\n".join(lines)


def _figure(values: Sequence[float]) -> str:
    finite = np.asarray([v for v in values if math.isfinite(v)], np.float64)
    lost = len(values) - len(finite)
    note = f" ({lost} of {len(values)} diverged)" if lost else ""
    if finite.size == 0:
        return f"diverged{note} | "
    error = finite.std(ddof=1) / math.sqrt(finite.size) if finite.size > 1 else math.nan
    return f"{finite.mean():.4g}{note} | {error:.2g}"


def _difference(difference: Difference, sign: float) -> str:
    low, high = sorted((sign * difference.low, sign * difference.high))
    return f"{sign * difference.mean + 0.0:+.3g} | {low:+.3g} to {high:+.3g}"


def _named(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _distinct(values: Any) -> str:
    return "; ".join(dict.fromkeys(values))
