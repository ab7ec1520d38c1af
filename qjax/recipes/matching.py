"""Applies a recipe while a model is traced, and tells which of its rules matched nothing."""

import contextlib
import contextvars
import warnings
from collections.abc import Iterator

from qjax.recipes.report import unmatched_message
from qjax.recipes.rules import Recipe, Rule


class UnmatchedRuleWarning(UserWarning):
    """A rule of a recipe matched nothing in the model that was called."""


_listing: contextvars.ContextVar[bool] = contextvars.ContextVar("qjax_listing", default=False)


@contextlib.contextmanager
def listing() -> Iterator[None]:
    """Keeps silent about rules inside the block, because a report lists them."""
    token = _listing.set(True)
    try:
        yield
    finally:
        _listing.reset(token)


class Matching:
    """A recipe, and what of it was used so far.

    Attributes:
      recipe: The recipe.
      used: Places of the rules that matched something, here or where `used` was given before.
      paths: The paths that were asked for, in order.
    """

    def __init__(self, recipe: Recipe, used: set[int] | None = None):
        self.recipe = recipe
        self.used = set() if used is None else used
        self.paths: dict[str, None] = {}

    def rule(self, path: str, op: str) -> Rule | None:
        """The rule for the operation `op` at `path`; None where it stays as it is."""
        self.paths[path] = None
        match = self.recipe.match(path, op)
        if match is None:
            return None
        self.used.add(match[0])
        return None if match[1].policy.is_identity else match[1]

    def tell(self, *, stacklevel: int = 3) -> None:
        """Tells that a rule has matched nothing, be it one that exempts what others quantize.

        Raises:
          ValueError: If no rule at all has matched. Otherwise an `UnmatchedRuleWarning` is
            given for each rule.
        """
        quantizes = any(not self.recipe.rules[n].policy.is_identity for n in self.used)
        for n, rule in self.recipe.unmatched(self.used) if not _listing.get() else ():
            if rule.policy.is_identity and not quantizes:
                continue  # Nothing is quantized, so that there is nothing to exempt.
            message = unmatched_message(self.recipe, n, rule, list(self.paths))
            if not self.used:
                raise ValueError(message)
            warnings.warn(message, UnmatchedRuleWarning, stacklevel=stacklevel)
