"""A report on a screen: a narrow table, with what rows have in common said once below it."""

from collections.abc import Sequence
from typing import Any

LONG = 16
SAVED = " (saved)"  # Follows the type of what is read as it was rounded before.
_UNITS = ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))


class Legend:
    """Gives signs to texts that are too long for a cell, in the order in which they come.

    Args:
      sign: Makes a sign of a number, from 1.
    """

    def __init__(self, sign: str):
        self.sign = sign
        self.texts: dict[str, str] = {}

    def of(self, text: str) -> str:
        """The sign of a text."""
        return self.texts.setdefault(text, self.sign.format(len(self.texts) + 1))


def short(count: int) -> str:
    """A number in three digits, such as "8.59G"."""
    for unit, letter in _UNITS:
        if count >= unit:
            return f"{count / unit:.3g}{letter}"
    return str(count)


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells as text, with a rule below the first."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(c.ljust(w) for c, w in zip(line, widths)).rstrip() for line in lines]
    return [text[0], "-" * max(map(len, text)), *text[1:]]


def lay_out(rows: Sequence[Any], operands: Sequence[str]) -> list[str]:
    """The lines of a table of rows, `table.Row`, and of the legends below it.

    Args:
      rows: The rows.
      operands: Names of their six operands.
    """
    notes, types = Legend("[{}]"), Legend("type {}")
    bits = {f: b for row in rows for f, b in zip(row.formats, row.bits) if b is not None}
    table: list[tuple[str, ...]] = [
        ("path", "op", "lhs", "rhs", "times", "FLOPs", *operands, "note")
    ]
    for row in rows:
        cells = row.cells()
        names = [
            (name if len(name) <= LONG else types.of(name)) + SAVED * (column in row.saved)
            for column, name in zip(operands, row.formats)
        ]
        note = notes.of(f"{cells['how']}; {cells['why']}" if cells["why"] else cells["how"])
        first = (cells[name] for name in ("path", "op", "lhs", "rhs", "times"))
        table.append((*first, short(row.flops), *names, note))
    lines = aligned(table)
    if bits:
        said = [f"{types.texts.get(f, f)} {b:g}" for f, b in bits.items()]
        lines.append(f"Bits per element, scales included: {', '.join(said)}.")
    lines += [f"{sign}: {name}" for name, sign in types.texts.items()]
    return [*lines, *(f"{sign} {text}" for text, sign in notes.texts.items())]
