"""Formats that a plan chooses among, as values of a law's predictors.

A candidate says what a law reads besides N and D (bits, exponent and mantissa bits, block, error or
label), how many bits a product costs and how many a stored element takes. Formats are names
(``FP8-E4M3@128``, ``INT4``, ``BF16``), bare bit-widths (``4``) or labels that the law was fitted
with.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from scaling.laws.labels import REFERENCES
from scaling.laws.law import Law
from scaling.tables.formats import NumberFormat, parse_format

#: Predictors that a format decides; N and D are searched, everything else must be given.
_BITS = ("P", "P_w", "P_a", "P_kv", "P_post")
#: Bit-widths tried where a law reads bits and no formats are named.
_WIDTHS = (3, 4, 5, 6, 7, 8, 12, 16)
#: Formats tried where a law reads E, M and B and none are named: the best splits at 128 elements.
_FLOATS = (
    "FP4-E2M1@128",
    "FP6-E3M2@128",
    "FP8-E4M3@128",
    "FP12-E6M5@128",
    "BF16@128",
)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One format as a law sees it.

    Args:
        name: how it was asked for.
        element: the name without its block, by which cost tables may list it.
        point: values of the law's predictors other than N and D.
        bits: bits of one element in a product; None where unknown.
        stored: bits of one stored element with its share of the scale; None where unknown.
    """

    name: str
    element: str
    point: Mapping[str, Any] = field(hash=False)
    bits: float | None
    stored: float | None


def candidates(
    law: Law, formats: Iterable[str] | None, held: Mapping[str, Any] | None = None
) -> tuple[Candidate, ...]:
    """Returns what a plan chooses among.

    Args:
        law: the law.
        formats: names; by default the law's labels, or a list that suits its predictors.
        held: predictors that keep one value whatever the format, such as P_a = 16.

    Raises:
        ValueError: a format is not understood or unknown to the law, formats repeat, or a
            predictor is decided neither by the format nor by ``held``.
    """
    held = dict(held or {})
    for name in held:
        if name not in law.predictors or name in ("N", "D"):
            others = [p for p in law.predictors if p not in ("N", "D")]
            raise ValueError(f"Law {law.name!r} reads {others} besides N and D, not {name!r}.")
    names = tuple(formats) if formats is not None else default_formats(law)
    if not names:
        raise ValueError("formats is empty; name at least one.")
    if len(set(names)) != len(names):
        raise ValueError(f"formats {list(names)} repeat; name each once.")
    if len(names) > 1 and not set(law.predictors) - {"N", "D", *held}:
        raise ValueError(
            f"Law {law.name!r} reads nothing that a format decides, so it cannot tell "
            f"{', '.join(names)} apart; name one, or take a law of precision."
        )
    return tuple(_candidate(law, str(name), held) for name in names)


def default_formats(law: Law) -> tuple[str, ...]:
    """Returns the formats that are tried where none are named."""
    labels = dict(law.options).get("labels") or ()
    if "fmt" in law.predictors and labels:
        return tuple(labels)
    if {"E", "M"} & set(law.predictors):
        return _FLOATS
    if set(_BITS) & set(law.predictors):
        return tuple(str(width) for width in _WIDTHS)
    if "GMSE" in law.predictors:
        return ("INT3", "INT4", "FP4-E2M1", "INT8", "FP8-E4M3", "BF16")
    return ("BF16",)


def _candidate(law: Law, name: str, held: dict[str, Any]) -> Candidate:
    labels = dict(law.options).get("labels") or ()
    if "fmt" in law.predictors and name not in labels:
        raise ValueError(
            f"Law {law.name!r} was fitted with the formats {', '.join(labels)}; it cannot know "
            f"{name!r}."
        )
    parsed = _parsed(name, is_label=name in labels)
    point = {}
    for predictor in law.predictors:
        if predictor in ("N", "D"):
            continue
        if predictor in held:
            point[predictor] = held[predictor]
        elif predictor == "fmt":
            point[predictor] = [name]
        else:
            point[predictor] = _value(law, predictor, name, parsed)
        _refuse_impossible(predictor, point[predictor])
    known = parsed is not None
    return Candidate(
        name=name,
        element=_element(name),
        point=point,
        bits=parsed.bits if known else None,
        stored=parsed.effective_bits if known else None,
    )


def _refuse_impossible(predictor: str, value: Any) -> None:
    """Raises ValueError for a number with which no law can be evaluated."""
    if isinstance(value, list | str):
        return
    least = {"B": 1.0, "E": -0.5, "M": -0.5, "S": -1e-300}.get(predictor, 0.0)
    if not least < float(value) < float("inf"):
        raise ValueError(f"{predictor} = {value:g} is impossible; it must be above {least:g}.")


def _element(name: str) -> str:
    return name.partition("@")[0].partition("-g")[0]


def _parsed(name: str, is_label: bool) -> NumberFormat | None:
    """Reads a format's name; a label that is no format has unknown bits."""
    try:
        bits = float(name)
    except ValueError:
        bits = None
    if bits is not None and bits > 0:
        whole = bits == int(bits)
        return NumberFormat(
            name=name, E=0 if whole else None, M=int(bits) - 1 if whole else None, bits=bits
        )
    if is_label and name in REFERENCES:
        return parse_format("BF16") if name == "none" else parse_format(name)
    try:
        return parse_format(name)
    except ValueError:
        if is_label:
            return None
        raise


def _value(law: Law, predictor: str, name: str, parsed: NumberFormat | None) -> float:
    if parsed is not None and predictor in _BITS:
        return parsed.bits
    if parsed is not None and predictor in ("E", "M"):
        value = getattr(parsed, predictor)
        if value is not None:
            return float(value)
    if parsed is not None and predictor == "B" and isinstance(parsed.B, int | float | str):
        if parsed.block == parsed.block:
            return parsed.block
        raise ValueError(
            f"{name!r}: a scale per tensor has no block size that law {law.name!r} could read; "
            "write @channel or a number."
        )
    if parsed is not None and predictor == "GMSE":
        from scaling.capacity import gmse_of_format

        return gmse_of_format(parsed)
    hint = f", as in {name}@128" if predictor == "B" else ""
    raise ValueError(
        f"Law {law.name!r} reads {predictor}, which the format {name!r} does not say{hint}; "
        f"hold it at a value (held={{{predictor!r}: ...}}, or --set {predictor}=...)."
    )
