"""Writes the tables of methods, in README.md and beside this file: `python -m qjax.recipes`.

Tests compare the files with what this would write, so that neither can go stale.
"""

import pathlib

from qjax.recipes import catalogue

BEGIN, END = "<!-- methods: generated -->", "<!-- methods: end -->"
INTRODUCTION = """\
# Methods and what they rest on

Written by `python -m qjax.recipes` from the registered recipes. A method is one file in
`qjax/recipes/` that composes general pieces of the floors below; no method imports another. To add
one: write its file, list it in `qjax/recipes/__init__.py`, and test it. The pieces below are those
that its recipes hold.

"""


def readme(text: str) -> str:
    """The README with its table of methods renewed.

    Raises:
      ValueError: If the marks around the table are missing.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(
            f"The table of methods is written between {BEGIN!r} and {END!r}, but README.md does "
            "not have both. Put the two lines where the table belongs."
        )
    return f"{before}{BEGIN}\n{catalogue.table()}{END}{after}"


def methods() -> str:
    """The text of qjax/recipes/methods.md."""
    return INTRODUCTION + catalogue.listing().rstrip("\n") + "\n"


def main() -> None:
    """Writes both files of the checkout that this package lies in."""
    root = pathlib.Path(__file__).parent.parent.parent
    path = root / "README.md"
    path.write_text(readme(path.read_text()))
    (root / "qjax" / "recipes" / "methods.md").write_text(methods())


if __name__ == "__main__":
    main()
