"""How well a type holds the parameters of a run: a diagnosis on request, between steps."""

import jax
import jax.numpy as jnp

from qjax import diagnostics
from qjax._typing import PyTree
from qjax.quantizer import Quantizer


def parameter_noise(
    params: PyTree, quantizer: Quantizer, *, smallest: int = 1024
) -> dict[str, float]:
    """Signal to quantization noise of every large parameter, in dB.

    Args:
      params: Parameters; they are tiled along their second last axis, which layers contract.
      quantizer: How they would be quantized, by a rounding that needs no key.
      smallest: Parameters with fewer elements, or fewer than two axes, are left out.

    Returns:
      Decibels by path; higher is better, about 6 for each bit.
    """
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if leaf.ndim < 2 or leaf.size < smallest:
            continue
        x = leaf.astype(jnp.float32)
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        found[name] = float(diagnostics.sqnr(x, quantizer.cast(x, contract=(-2,))))
    return found
