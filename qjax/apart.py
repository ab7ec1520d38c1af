"""Functions that a program calls in many places: traced once, and compiled as what they are.

A quantized model casts the same shapes again and again. `jax.jit` traces and lowers a function
once for arguments of the same shapes; but XLA writes its body into every place of call, and its
CPU then fuses it with what stands there, so that each place becomes a kernel of its own, and
numbers that a whole tile shares are computed again for each element of it. Apart, the bodies stay
functions, whose kernels are the same and compiled once, and what they return is in memory.

On accelerators nothing is kept apart: there, fusion is worth more.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.core import Tracer
from jax.experimental.xla_metadata import set_xla_metadata


def apart(function: Callable, **options: Any) -> Callable:
    """Returns `jax.jit(function, **options)` whose calls XLA's CPU does not inline."""
    compiled = jax.jit(function, **options)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        out = compiled(*args, **kwargs)
        if jax.default_backend() != "cpu" or not _traced(out):
            return out
        # The note is read by XLA's call inliner; it stands at the call that made `out`.
        return set_xla_metadata(out, inlineable="false")

    return call


def _traced(tree: Any) -> bool:
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))
