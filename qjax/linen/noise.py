"""The keys that layers of a linen module round stochastically with."""

from typing import Any

import flax.linen as nn
import jax

from qjax.contraction.absent import Absent
from qjax.recipes.noise import Noise

STREAM = "quant"


def noise_of(module: nn.Module, root: nn.Module) -> Noise | None:
    """The keys of a layer's contractions; they depend on its path, not on other layers."""
    scope: Any = module.scope
    if module.has_rng(STREAM):
        # Lifted transformations split the key itself; what else Flax folds in, `Noise` does.
        stream = scope.rngs[STREAM]
        key = getattr(stream, "rng", stream)
    elif module.is_initializing():
        # What `init` computes is thrown away; drawing from its stream would change the
        # parameters, which shall not depend on the recipe.
        key = jax.random.key(0)
    elif root.has_rng(STREAM):
        key = Absent("/".join(module.path), _LIFTED)
    else:
        return None
    noise = Noise(key)
    # Beside Flax's own counters, which live as long as one `apply`: a layer that is called
    # again goes on counting.
    noise.counts = scope.rng_counters.setdefault(_COUNTS, {})
    return noise


_LIFTED = (
    f"That of the stream {STREAM!r} does not reach the layer: a lifted transformation around it "
    f"has to split it: for `nn.scan` and `nn.RNN`, `split_rngs={{..., {STREAM!r}: True}}`. Or "
    "quantize the function that applies it: `qjax.quantize(model.apply, recipe, weights=0)`."
)
_COUNTS = "contractions of qjax"
