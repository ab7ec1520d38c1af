"""TensorCast's codebooks: tables that are patterns on the number line of a small float.

A name such as `cb42f1346_e2m3fnuz` says: indices of 4 bits, a choice of 2 bits, the pattern of a
4-bit float moved down the number line of e2m3 by 1, 3, 4 and 6 places. Tables are symmetric and
hold zero.

A name is `cb<index bits><choice bits><clauses>_<eXmY>[_label]` with as many tables as the
choice has values; the compute type's bias is `2**(X - 1) - 1` unless `bN` says otherwise.
Without clauses the codebook is generic, and `Blank.fill` gives it its tables. A clause is a
pattern, digits, and for `f` and `i` perhaps `e` and digits:

- `f` and `i`: the positive values of a float with two exponent bits, or of an integer, of the
  width of the index, in the top binade; each digit instead moves them down so many places
  from the top of the line. Of three bits they are 1, 2, 4 and 1, 2, 3.
- `e` and digits: the pattern halved so many times (`e` alone: `e01`).
- `p` and `s`: a first digit for the distance in places between the largest two (1 where there
  is none), which grows by one from number to number (`p`) or stays (`s`), and digits to move
  it down from the top.

TensorCast's text, its sample of code and its code differ on `p` with a first digit above 1
(distances n, n + 1, n + 2; n, 2n, 3n; all equal but the first) and its table of `i` of three
bits is that of `f`: here the text is followed, and what it says an integer is.

`icb<4><choice bits><clauses>` is the form of its earlier versions: `f` and `i` take one digit,
the place of the first table; `p` and `s` a digit, one less than the distance, and another for
that place. Each clause gives an equal share of the tables, each one place below the last, or
two where there is more than one bit of choice and a binade has more places than the clause
tables. What moves down past the smallest number becomes zero.
"""

import re

from qjax.formats._blank import Blank
from qjax.formats._choice import Choice
from qjax.formats._codebook import Codebook
from qjax.formats._float import Float

COMPUTE = r"e(\d)m(\d)(?:b(\d+))?(fnuz|fn|inuz)?(?:_(\w+))?"
NAME = re.compile(rf"(i?)cb(\d)(\d)([a-z0-9]*)_{COMPUTE}")
CLAUSE = re.compile(r"([fips])(\d*)(e\d*)?")
FIRST = re.compile(r"([fips])(\d?)(\d?)")


def codebook(name: str) -> Choice | Blank | None:
    """Returns the tables of a codebook's name, None where it is not of that form.

    The module's first lines say what a name says.

    Raises:
      ValueError: If the patterns are not as many as the choices, or leave the number line.
    """
    match = NAME.fullmatch(name)
    if match is None:
        return None
    bits, choices, clauses = int(match[2]), int(match[3]), match[4]
    exponent, mantissa = int(match[5]), int(match[6])
    bias = ((1 << exponent) >> 1) - 1 if match[7] is None else int(match[7])
    compute = Float(exponent, mantissa, family=match[8] or "ieee", bias=bias)
    if not 2 <= bits <= 8 or choices < 1:
        raise _wrong(name, "has not indices of 2 to 8 bits and a choice of at least one")
    if not clauses and not match[1]:
        return Blank(bits, choices, compute, label=match[9] or "")
    line = [float(value) for value in compute.values() if value >= 0]
    if match[1] and bits != 4:
        raise _wrong(name, "asks for indices of another width than 4, which this form has not")
    found = _clauses(FIRST if match[1] else CLAUSE, clauses, name)
    if match[1]:
        tables = _earlier(found, choices, mantissa, line, name)
    else:
        tables = [table for part in found for table in _tables(part, bits, line, name)]
    if len(tables) != 1 << choices:
        raise _wrong(name, f"describes {len(tables)} tables for a choice of {choices} bits")
    return Choice(tuple(_symmetric(sizes, line, name) for sizes in tables), label=name)


def _clauses(pattern: re.Pattern, clauses: str, name: str) -> list[re.Match]:
    found = list(pattern.finditer(clauses))
    if "".join(part[0] for part in found) != clauses or not found:
        raise _wrong(name, "is not made of clauses f, i, p or s")
    return found


def _symmetric(sizes: list[float], line: list[float], name: str) -> Codebook:
    """Returns the table of positive values, their negatives and zero."""
    if not sizes or len(set(sizes)) < len(sizes) or not set(sizes) <= set(line[1:]):
        raise _wrong(name, "has a pattern that leaves the number line")
    return Codebook((*(-size for size in reversed(sizes)), 0.0, *sizes))


def _tables(clause: re.Match, bits: int, line: list[float], name: str) -> list[list[float]]:
    """Returns the positive values of the tables of one clause."""
    kind, digits, halvings = clause[1], [int(digit) for digit in clause[2]], clause[3]
    top = len(line) - 1
    if kind in "fi":
        values = _pattern(kind, bits, line, name)
        tables = [values]
        if digits:
            places = _places(values, line, name)
            tables = [_at([p + top - places[-1] - down for p in places], line, name)
                      for down in digits]  # fmt: skip
        if halvings is not None:
            steps = [int(digit) for digit in halvings[1:]] or [0, 1]
            tables = [[v / 2.0**step for v in table] for table in tables for step in steps]
        return tables
    if halvings is not None:
        raise _wrong(name, "halves a pattern other than f or i")
    below = _distances(kind, digits[0] if digits else 1, bits)
    return [_at([top - down - b for b in below], line, name) for down in digits[1:] or [0]]


def _earlier(
    found: list[re.Match], choices: int, mantissa: int, line: list[float], name: str
) -> list[list[float]]:
    """Returns the positive values of the tables of the earlier form, an equal share per clause."""
    count = (1 << choices) // (1 << (len(found) - 1).bit_length())
    step = 2 if choices > 1 and count < 1 << mantissa else 1
    return [table for part in found for table in _moved_down(part, count, step, line, name)]


def _moved_down(
    clause: re.Match, count: int, step: int, line: list[float], name: str
) -> list[list[float]]:
    """Returns the positive values of `count` tables of one clause of the earlier form."""
    kind, first, second = clause[1], clause[2], clause[3]
    top = len(line) - 1
    if kind in "fi":
        places = _places(_pattern(kind, 4, line, name), line, name)
        below, down = [places[-1] - p for p in places], int(first or 0)
    else:
        below, down = _distances(kind, int(first) + 1 if first else 1, 4), int(second or 0)
    tables = [[top - down - step * i - b for b in below] for i in range(count)]
    return [[line[place] for place in table if place > 0] for table in tables]


def _distances(kind: str, first: int, bits: int) -> list[int]:
    """Returns how far the numbers of a pattern lie below its largest, descending."""
    count = (1 << (bits - 1)) - 1
    gaps = [first + (i if kind == "p" else 0) for i in range(count - 1)]
    return [sum(gaps[:i]) for i in reversed(range(count))]


def _pattern(kind: str, bits: int, line: list[float], name: str) -> list[float]:
    """Returns the positive values of a small float or integer in the top binade of the line."""
    if kind == "f" and not 3 <= bits <= 6:
        raise _wrong(name, "asks for f patterns, which have 3 to 6 bits")
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


def _places(values: list[float], line: list[float], name: str) -> list[int]:
    """Returns where values stand on the line."""
    if not set(values) <= set(line):
        raise _wrong(name, "has a pattern that leaves the number line of its compute type")
    return [line.index(value) for value in values]


def _at(places: list[int], line: list[float], name: str) -> list[float]:
    if min(places) < 1:
        raise _wrong(name, "has a pattern that leaves the number line")
    return [line[place] for place in places]


def _wrong(name: str, what: str) -> ValueError:
    return ValueError(
        f"The codebook name {name!r} {what}. Write for instance 'cb41fi_e2m3fnuz', or build "
        "tables with `formats.Choice`."
    )
