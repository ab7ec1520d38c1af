"""Versions of what a run depends on, for tables and checkpoints."""

import importlib.metadata


def versions(*names: str) -> dict[str, str]:
    """Returns the installed version of each distribution; "source" where it is not installed."""
    found = {}
    for name in names or ("qjax", "jax", "flax", "optax"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "source"
    return found
