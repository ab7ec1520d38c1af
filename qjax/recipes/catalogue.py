"""The registered methods as tables: bits, cost, paper, and the general pieces they rest on.

Everything but the words of a `Method` is read off the recipes themselves, so that a table
cannot say what a recipe does not do. Writing the tables into files is `__main__`.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

from qjax.contraction.policy import Leg
from qjax.contraction.residuals import rounded
from qjax.contraction.storage import bits_range
from qjax.recipes import registry
from qjax.recipes.registry import Method
from qjax.recipes.rules import Recipe

HEADER = (
    "| method | bits (weights, activations, gradients) | extra cost | recipe | paper |",
    "| --- | --- | --- | --- | --- |",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """A method with its recipes.

    Attributes:
      method: What it is.
      home: Name of the module that registers it.
      recipes: Its recipes, by name.
    """

    method: Method
    home: str
    recipes: dict[str, Recipe]


def entries() -> list[Entry]:
    """The methods of the registered recipes, by the name of their module, then by title."""
    found: dict[tuple[str, str], Entry] = {}
    for name in registry.names():
        method, home = registry.method_of(name), registry.home_of(name)
        if method is not None:
            entry = Entry(method=method, home=home, recipes={})
            entry = found.setdefault((home, method.title), entry)
            entry.recipes[name] = registry.get(name)
    return [found[key] for key in sorted(found)]


def table() -> str:
    """All methods as a Markdown table, a row for each recipe."""
    lines: list[str] = [*HEADER]
    for entry in entries():
        method = entry.method
        for name, recipe in entry.recipes.items():
            cells = (method.title, ", ".join(bits(recipe)), method.cost, f"`{name}`", method.paper)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def bits(recipe: Recipe) -> tuple[str, str, str]:
    """Bits per element of weights, activations and gradients in layers without an exemption.

    Scales are counted in; where the legs differ their bits are separated by a slash, "1-16" are
    the fewest and the most of what is learned or chosen as a model runs, and "32" stands for what
    is not quantized. Weights are the second operand, as Flax's layers have it.
    """
    operands = {**recipe.default.quantizers(), **rounded(recipe.default)}
    places: dict[str, tuple[tuple[Leg, str], ...]] = {
        "weights": (("fwd", "rhs"), ("dlhs", "rhs")),
        "activations": (("fwd", "lhs"), ("drhs", "lhs")),
        "gradients": (("dlhs", "cotangent"), ("drhs", "cotangent")),
    }
    weights, activations, gradients = (
        "/".join(dict.fromkeys(_width(operands[place]) for place in names))
        for names in places.values()
    )
    return weights, activations, gradients


def _width(quantizer: Any) -> str:
    if quantizer is None:
        return "32"
    return "-".join(dict.fromkeys(f"{bits:.4g}" for bits in bits_range(quantizer)))


def pieces(recipe: Recipe) -> dict[str, str]:
    """The general pieces that a recipe is composed of: names of classes and their modules."""
    return dict(sorted((type(part).__name__, _public(type(part))) for part in _parts(recipe)))


def listing() -> str:
    """For every method where it lives, and the pieces it rests on and where they live."""
    lines = []
    for entry in entries():
        found: dict[str, list[str]] = {}
        for recipe in entry.recipes.values():
            for name, place in pieces(recipe).items():
                names = found.setdefault(place, [])
                names += [name] if name not in names else []
        lines += [f"## {entry.method.title}", ""]
        names = ", ".join(f"`{name}`" for name in entry.recipes)
        lines += [f"{entry.method.paper}; `{entry.home}`; recipes {names}.", ""]
        lines += [
            f"- `{place}`: {', '.join(sorted(names))}" for place, names in sorted(found.items())
        ]
        lines += [""]
    return "\n".join(lines)


def _parts(value: Any) -> Iterator[Any]:
    """The objects of the floors below that a recipe holds, itself and its rules left out."""
    if dataclasses.is_dataclass(value):
        place = type(value).__module__
        if not place.startswith("qjax.recipes"):
            yield value
        for field in dataclasses.fields(value):
            yield from _parts(getattr(value, field.name))
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _parts(part)


def _public(kind: type) -> str:
    """The module that users import a class from: private files are left out."""
    parts = kind.__module__.split(".")
    return ".".join(part for part in parts if not part.startswith("_"))
