"""Recipes by name: the door where a string becomes a `Recipe`.

Names are parsed here once; everything below receives objects.
"""

import dataclasses
import difflib
from collections.abc import Callable

from qjax import qtypes
from qjax.contraction import Policy
from qjax.quantizer import Quantizer
from qjax.recipes.rules import Recipe, Rule

_makers: dict[str, Callable[[], Recipe]] = {}
_methods: dict[str, "Method | None"] = {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """What a method is, for tables; how it computes is in its recipes.

    Attributes:
      title: The method's name in its paper.
      paper: Where it was published, such as "arXiv:2310.10537".
      cost: What it computes or keeps beyond casts of the operands and their scales.
    """

    title: str
    paper: str
    cost: str


# Where a language model or classifier turns features into logits. Kept in high precision
# by default: the published recipes for training exempt the last layer and embeddings, whose
# tables make logits where they are tied. The layer may stand in a module of such a name; what
# lies deeper is a network of its own.
LOGITS = Rule(
    r"(.*/)?(lm_head|head|logits|logits?_?dense|output_head|output_layer|classifier|unembed\w*|"
    r"decoder_logits|embed\w*|\w+_embed(ding)?s?|wte|Embed_\d+)(/[^/]+)?",
    Policy(),
    name="logits and embeddings",
    optional=True,
)

# Where a model begins, as examples of Flax and common code name it.
FIRST = r"(.*/)?(conv_init|stem\w*|conv_0|layer_0|first)(/.*)?"


def register(
    name: str, method: Method | None = None
) -> Callable[[Callable[[], Recipe]], Callable[[], Recipe]]:
    """Registers the function below as the maker of the recipe `name`.

    Args:
      name: How users ask for the recipe. The recipe that is made carries this name.
      method: The published method that the recipe belongs to.

    Raises:
      ValueError: If the name is taken.
    """
    if name in _makers:
        raise ValueError(
            f"`register` was asked for the recipe {name!r}, but that name is taken. "
            "Choose another name; `qjax.recipes.names()` lists those in use."
        )

    def keep(make: Callable[[], Recipe]) -> Callable[[], Recipe]:
        _makers[name], _methods[name] = make, method
        return make

    return keep


def names() -> list[str]:
    """Names of the registered recipes, sorted."""
    return sorted(_makers)


def method_of(name: str) -> Method | None:
    """The method that a registered recipe belongs to, if it said so."""
    return _methods[name]


def home_of(name: str) -> str:
    """Name of the module that registered a recipe."""
    return _makers[name].__module__


def get(recipe: "str | Recipe | Policy | qtypes.QType | Quantizer") -> Recipe:
    """Gives the recipe that a name, a policy, a quantizer or a type stands for.

    The name of a type or format that is no recipe of its own, such as "e3m2fn" or
    "bfp6", stands for the recipe that quantizes all six operands to it (nearest even),
    with logits and embeddings in high precision.

    Raises:
      ValueError: If the name is unknown; near names are listed.
      TypeError: If `recipe` is of another type.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, str):
        return _by_name(recipe)
    if isinstance(recipe, Policy):
        return Recipe((Rule(".*", recipe),), name="policy")
    if isinstance(recipe, Quantizer):
        return six_operands("quantizer", recipe)
    if isinstance(recipe, qtypes.QType):
        return six_operands(recipe.name, Quantizer(recipe))
    raise TypeError(
        f"`recipe` must be the name of a recipe, a Recipe, a Policy, a Quantizer or a QType, but "
        f"{recipe!r} of type {type(recipe).__name__} came. `qjax.recipes.names()` lists the names."
    )


def six_operands(
    name: str, quantizer: Quantizer, *, cotangent: Quantizer | None = None, version: int = 1
) -> Recipe:
    """The recipe that quantizes all six operands, logits and embeddings excepted.

    Args:
      name: Name of the recipe.
      quantizer: For activations and weights.
      cotangent: For incoming gradients; `quantizer` where None.
      version: Version of the recipe.
    """
    policy = Policy.all(quantizer, cotangent=cotangent)
    return Recipe((LOGITS, Rule(".*", policy, name=name)), name=name, version=version)


def _by_name(name: str) -> Recipe:
    if name in _makers:
        return dataclasses.replace(_makers[name](), name=name)
    try:
        qtype = qtypes.parse(name)
    except ValueError as error:
        near = difflib.get_close_matches(name, {*names(), *qtypes.NAMED}, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(
            f"`recipe` {name!r} is neither a registered recipe nor a type.{hint} "
            f"The recipes are: {', '.join(names())}. (As a type: {error})"
        ) from None
    return six_operands(name, Quantizer(qtype))
