"""Rules: which contractions of a model get which policy.

A recipe is an ordered list of rules; the first that matches a contraction decides. Rules
match paths and operation names only, so that a recipe knows no model and can be printed,
compared, hashed and saved.
"""

import dataclasses
import difflib
import re
from collections.abc import Iterable, Sequence

import jax

from qjax.contraction import Policy
from qjax.contraction.policy import Implementation

OPERATIONS = ("dot_general", "einsum", "conv_general_dilated", "ragged_dot")


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rule:
    """Gives a policy to the contractions whose path and operation match.

    Attributes:
      path: Regular expression that the whole path must match (`re.fullmatch`). Paths are
        written with slashes and are relative to the quantized module: "decoder/mlp/wi".
      policy: What matching contractions compute in. `Policy()` leaves them as they are.
      ops: Operations that the rule covers; None covers all.
      name: How reports call the rule; the path where empty.
      optional: Whether the rule may match nothing without anybody being told. True for
        exemptions that a general recipe names in case the model has such layers.
    """

    path: str = dataclasses.field(metadata={"static": True})
    policy: Policy = Policy()
    ops: tuple[str, ...] | None = dataclasses.field(
        default=None, kw_only=True, metadata={"static": True}
    )
    name: str = dataclasses.field(default="", kw_only=True, metadata={"static": True})
    optional: bool = dataclasses.field(default=False, kw_only=True, metadata={"static": True})

    def __post_init__(self):
        if isinstance(self.policy, str):
            raise TypeError(
                f"`Rule.policy` must be a Policy, but {self.policy!r} came. Take the policy of a "
                f"named recipe: `qjax.recipes.get({self.policy!r}).default`."
            )
        try:
            re.compile(self.path)
        except (re.error, TypeError) as error:
            raise ValueError(
                f"`Rule.path` must be a regular expression, but {self.path!r} came ({error}). "
                "Escape special signs with a backslash; '.*' matches every path."
            ) from None
        if isinstance(self.ops, str):
            object.__setattr__(self, "ops", (self.ops,))
        elif self.ops is not None:
            object.__setattr__(self, "ops", tuple(self.ops))
        for op in self.ops or ():
            if op not in OPERATIONS:
                near = max(OPERATIONS, key=lambda o: (o.startswith(op), _likeness(o, op)))
                raise ValueError(
                    f"`Rule.ops` names operations, but {op!r} is none of {list(OPERATIONS)}. "
                    f"Did you mean {near!r}?"
                )

    def matches(self, path: str, op: str) -> bool:
        """Whether the rule covers the operation `op` at `path`."""
        return (self.ops is None or op in self.ops) and re.fullmatch(self.path, path) is not None

    def __str__(self) -> str:
        return self.name or self.path


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Recipe:
    """Ordered rules; the first that matches decides, and what no rule matches stays as it is.

    Attributes:
      rules: The rules, most special first.
      name: How the recipe is called.
      version: Grows when the numbers that the recipe gives change.
    """

    rules: tuple[Rule, ...]
    name: str = dataclasses.field(default="custom", kw_only=True, metadata={"static": True})
    version: int = dataclasses.field(default=1, kw_only=True, metadata={"static": True})

    def __post_init__(self):
        if isinstance(self.rules, Rule):
            object.__setattr__(self, "rules", (self.rules,))
        elif isinstance(self.rules, Sequence) and not isinstance(self.rules, str | tuple):
            object.__setattr__(self, "rules", tuple(self.rules))
        if isinstance(self.rules, str | Policy):
            raise TypeError(
                f"`Recipe.rules` must be rules, but {self.rules!r} came. "
                "Write `Recipe([Rule('.*', policy)])`, or `qjax.recipes.get(name)`."
            )

    def match(self, path: str, op: str) -> tuple[int, Rule] | None:
        """The first rule that covers the operation `op` at `path`, with its place."""
        for n, rule in enumerate(self.rules):
            if rule.matches(path, op):
                return n, rule
        return None

    def unmatched(self, used: Iterable[int]) -> list[tuple[int, Rule]]:
        """Rules that should have matched something but are not among `used`."""
        seen = set(used)
        return [
            (n, rule) for n, rule in enumerate(self.rules) if n not in seen and not rule.optional
        ]

    def using(self, implementation: Implementation) -> "Recipe":
        """The same recipe with its products carried out as `Policy.implementation` says.

        qjax.quantize(model, qjax.recipes.get("mxfp8").using("bfloat16"))
        """
        rules = (
            dataclasses.replace(
                rule, policy=dataclasses.replace(rule.policy, implementation=implementation)
            )
            for rule in self.rules
        )
        return dataclasses.replace(self, rules=tuple(rules))

    @property
    def default(self) -> Policy:
        """The policy of the last rule: what layers without an exemption compute in."""
        return self.rules[-1].policy if self.rules else Policy()

    @property
    def is_identity(self) -> bool:
        """Whether no rule quantizes anything."""
        return all(rule.policy.is_identity for rule in self.rules)
