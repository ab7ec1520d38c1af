"""TensorCast's implicit codebooks: tables that are patterns on the number line of a small float.

A name such as `cb42f1346_e2m3fnuz` says: indices of 4 bits, a choice of 2 bits, the pattern of a
4-bit float moved down the number line of e2m3 by 1, 3, 4 and 6 places. Tables are symmetric and
hold zero.
"""

import re

from qjax.formats._choice import Choice
from qjax.formats._codebook import Codebook
from qjax.formats._float import Float

NAME = re.compile(r"cb(\d)(\d)([a-z0-9]*)_e(\d)m(\d)(fnuz|fn|inuz)?(?:_(\w+))?")
CLAUSE = re.compile(r"([fips])(\d*)(e\d*)?")


def codebook(name: str) -> Choice | None:
    """Returns the tables of an implicit codebook's name, None where it is not of that form.

    A name is `cb<index bits><choice bits><clauses>_<eXmY>[_label]` with as many tables as the
    choice has values. A clause is a pattern, digits, and for `f` and `i` perhaps `e` and digits:

    - `f` and `i`: a float with two exponent bits, or an integer, of the width of the index, in the
      top binade; each digit instead moves it down so many places from the top of the line.
    - `e` and digits: the pattern halved so many times (`e` alone: `e01`).
    - `p` and `s`: a first digit for the distance in places, which grows by one from number to
      number (`p`) or stays (`s`), and digits to move it down from the top.

    Raises:
      ValueError: If the patterns are not as many as the choices, or leave the number line.
    """
    match = NAME.fullmatch(name)
    if match is None:
        return None
    bits, choices, clauses = int(match[1]), int(match[2]), match[3]
    exponent, mantissa = int(match[4]), int(match[5])
    bias = ((1 << exponent) >> 1) - 1
    line = Float(exponent, mantissa, family=match[6] or "ieee", bias=bias).values()
    line = [float(value) for value in line if value >= 0]
    found = list(CLAUSE.finditer(clauses))
    if "".join(part[0] for part in found) != clauses or not 3 <= bits <= 6:
        raise _wrong(name, "is not made of clauses f, i, p or s for indices of 3 to 6 bits")
    tables = [table for part in found for table in _tables(part, bits, line, name)]
    if len(tables) != 1 << choices or choices < 1:
        raise _wrong(name, f"describes {len(tables)} tables for a choice of {choices} bits")
    books = []
    for sizes in tables:
        if len(set(sizes)) < len(sizes) or not set(sizes) <= set(line[1:]):
            raise _wrong(name, "has a pattern that leaves the number line")
        books.append(Codebook((*(-size for size in reversed(sizes)), 0.0, *sizes)))
    return Choice(tuple(books), label=name)


def _tables(clause: re.Match, bits: int, line: list[float], name: str) -> list[list[float]]:
    """Returns the positive values of the tables of one clause."""
    kind, digits, halvings = clause[1], [int(digit) for digit in clause[2]], clause[3]
    count, top = (1 << (bits - 1)) - 1, len(line) - 1
    if kind in "fi":
        values = _pattern(kind, bits, line, name)
        tables = [values]
        if digits:
            places = [line.index(value) for value in values if value in line]
            if len(places) < count:
                raise _wrong(name, "has a pattern that its compute type cannot hold")
            tables = [[p + top - places[-1] - digit for p in places] for digit in digits]
            tables = [_at(places, line, name) for places in tables]
        if halvings is not None:
            steps = [int(digit) for digit in halvings[1:]] or [0, 1]
            tables = [[v / 2.0**step for v in table] for table in tables for step in steps]
        return tables
    if halvings is not None:
        raise _wrong(name, "halves a pattern other than f or i")
    first = digits[0] if digits else 1
    gaps = [first + (i if kind == "p" else 0) for i in range(count - 1)]
    below = [sum(gaps[:i]) for i in reversed(range(count))]
    return [_at([top - down - b for b in below], line, name) for down in digits[1:] or [0]]


def _pattern(kind: str, bits: int, line: list[float], name: str) -> list[float]:
    """Returns the positive values of a small float or integer in the top binade of the line."""
    if not 3 <= bits <= 5:
        raise _wrong(name, "asks for f or i patterns, which have 3 to 5 bits")
    if kind == "f":
        sizes = [float(v) for v in Float(2, bits - 3, family="finite").values() if v > 0]
    else:
        sizes = [float(v) for v in range(1, 1 << (bits - 1))]
    binade = 1.0
    while binade * 2 <= line[-1]:
        binade *= 2
    largest = 1.0
    while largest * 2 <= sizes[-1]:
        largest *= 2
    return [size * binade / largest for size in sizes]


def _at(places: list[int], line: list[float], name: str) -> list[float]:
    if min(places) < 1:
        raise _wrong(name, "has a pattern that leaves the number line")
    return [line[place] for place in places]


def _wrong(name: str, what: str) -> ValueError:
    return ValueError(
        f"The codebook name {name!r} {what}. Write for instance 'cb41fi_e2m3fnuz', or build "
        "tables with `formats.Choice`."
    )
