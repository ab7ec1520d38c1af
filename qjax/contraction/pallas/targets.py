"""Where a kernel runs, and what the blocks of arrays may be there.

A GPU (through Triton) takes blocks whose sides are powers of two; a TPU takes as last side a
multiple of 128, or the whole. Interpreted kernels take what a GPU takes.
"""

from collections.abc import Callable
from typing import Any, Literal

from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

Target = Literal["gpu", "tpu", "interpreted"]


def call(kernel: Callable, target: Target, **options: Any) -> Callable:
    """A Pallas call of the kernel for its target; options are those of `pallas_call`."""
    if target == "gpu":
        return pl.pallas_call(kernel, compiler_params=triton.CompilerParams(), **options)
    return pl.pallas_call(kernel, interpret=target == "interpreted", **options)


def dividing(size: int, most: int) -> int:
    """The largest power of two that divides `size` and is at most `most`, or 1."""
    return min(size & -size, 1 << (max(most, 1).bit_length() - 1)) if size else 1


def across(size: int, most: int, target: Target) -> int:
    """The last side of the blocks of an array with `size` columns."""
    if target != "tpu":
        return dividing(size, most)
    return size if size % 128 else max(128, dividing(size, most))
