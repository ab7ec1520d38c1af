"""Values of learned operands found anew, from parameters and inputs at hand.

`init` finds them from parameters that are random. Here they are found from trained ones: those of
a float model that goes on in few bits, or of a model whose steps followed its values until now.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from qjax._typing import Key, PyTree
from qjax.contraction.variables import PENALTIES, QUANT


def refound(
    module: nn.Module,
    variables: PyTree,
    *inputs: Any,
    rngs: dict[str, Key] | None = None,
    **kwargs: Any,
) -> dict[str, Any]:
    """Returns `variables` with what operands of `module` learn and remember found anew.

    What they remember is what a first step on these inputs leaves.

    Args:
      module: A quantized, unbound module.
      variables: Its variables, or those of the float module.
      *inputs: Inputs of the module, from which first values are found too.
      rngs: Keys of the streams that the module draws from.
      **kwargs: Passed on to the module.
    """
    kept = {name: held for name, held in variables.items() if name not in (QUANT, PENALTIES)}
    kept["params"] = _without(kept["params"])
    _, made = module.apply(kept, *inputs, rngs=rngs, mutable=True, **kwargs)
    return {**kept, **{name: made[name] for name in ("params", QUANT, PENALTIES) if name in made}}


def _without(params: PyTree) -> PyTree:
    """Parameters without what operands learn."""
    if not isinstance(params, Mapping):
        return params
    return {name: _without(held) for name, held in params.items() if name != QUANT}
