"""What stands where the key of noise would, if none came: nothing, until one is drawn.

A recipe may draw noise in its gradients alone. Forward passes then need no key, and whoever
differentiates learns which contraction lacks one, and what to do.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NoReturn

import jax

from qjax._typing import Key

REMEDY = (
    "Pass `key=` to the operation, `rngs={'quant': key}` to a linen module's `apply`, "
    "`rngs=nnx.Rngs(quant=0)` to `qjax.quantize` of an nnx module, or `quant_key=key` to a "
    "quantized function."
)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Absent:
    """A key that did not come.

    Attributes:
      path: Of the contraction that it is for; empty outside of any model.
      remedy: What to do.
    """

    path: str = ""
    remedy: str = REMEDY

    def refuse(self, what: str) -> NoReturn:
        """Says that it is missing.

        Args:
          what: What would draw noise from it.

        Raises:
          ValueError: Always.
        """
        where = f" of {self.path!r}" if self.path else ""
        raise ValueError(f"{what}{where} draws noise, but no key came. {self.remedy}")


def folded(key: Any, number: Any) -> Any:
    """The key of one use of many; where none came, what says so."""
    return of_key(jax.random.fold_in, key, number)


def of_key(function: Callable[[Key, Any], Key], key: Any, number: Any) -> Any:
    """The key that `function` makes of a key and a number; where none came, what says so."""
    return key if key is None or isinstance(key, Absent) else function(key, number)
