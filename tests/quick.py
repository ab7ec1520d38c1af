"""Programs compiled without the compiler's last passes, for tests of what those do not change."""

from collections.abc import Callable
from typing import Any

import jax

QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def quick(function: Callable[..., Any], *args: Any) -> Any:
    """What `jax.jit(function)(*args)` returns, compiled in about two thirds of the time."""
    return jax.jit(function).lower(*args).compile(compiler_options=QUICK)(*args)
