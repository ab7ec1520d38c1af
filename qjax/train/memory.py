"""What quantized operands remember, kept apart from gradients in a training step.

States of operands of the backward pass come back as the cotangents of their variables. They are
no gradients: nothing clips, scales or averages them, and several are joined by their maximum.
Facts about casts come back the same way, but are sums.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from qjax._typing import Array, PyTree
from qjax.contraction.facts import SUMS
from qjax.contraction.memory import NAMES
from qjax.contraction.variables import DIAGNOSTICS, QUANT

Path = tuple[Any, ...]


def _words(path: Path) -> list[str]:
    return [str(getattr(key, "key", getattr(key, "name", key))) for key in path]


def _is_state(path: Path) -> bool:
    """Whether a leaf is a calibration's state, forward or backward."""
    words = _words(path)
    own = words[words.index(QUANT) + 1 :] if QUANT in words else []
    return any(word.endswith((*NAMES, "fwd_lhs", "fwd_rhs")) for word in own)


def _is_fact(path: Path) -> bool:
    return DIAGNOSTICS in _words(path)


def _comes_back(path: Path) -> bool:
    """Whether a leaf of the variables is found by differentiation."""
    if not (_is_state(path) or _is_fact(path)):
        return False
    return any(word.endswith(NAMES) for word in _words(path))


def split(variables: PyTree) -> dict[str, Array]:
    """The leaves of the variables that are found by differentiation, by path."""
    return _where(variables, _comes_back)


def forward(variables: PyTree) -> dict[str, Array]:
    """The states that the forward pass moves on, by path."""
    return _where(variables, lambda path: _is_state(path) and not _comes_back(path))


def _where(variables: PyTree, asked: Callable[[Path], bool]) -> dict[str, Array]:
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves if asked(path)}


def place(variables: PyTree, values: dict[str, Array]) -> PyTree:
    """The variables with `values`, named as in `split`, in their places."""

    def one(path: Path, leaf: Array) -> Array:
        return values.get(jax.tree_util.keystr(path), leaf)

    return jax.tree_util.tree_map_with_path(one, variables)


def put(variables: PyTree, found: dict[str, Array]) -> PyTree:
    """The variables with the states and facts that were found in their places."""
    before = {**split(variables), **forward(variables)}
    return place(variables, {name: _next(name, before[name], found[name]) for name in found})


def _next(name: str, before: Array, new: Array) -> Array:
    if DIAGNOSTICS in name:
        return new
    # All zeros: the operand was not met in this step, and goes on remembering.
    return jnp.where(jnp.any(new > 0), new, before)


def join(total: dict[str, Array], new: dict[str, Array]) -> dict[str, Array]:
    """What two parts of a batch have found: states by their maximum, facts by their sum."""
    return {
        name: total[name] + new[name]
        if DIAGNOSTICS in name
        else jnp.maximum(total[name], new[name])
        for name in total
    }


def over_devices(variables: PyTree, axis: str, mean: Callable[[Array], Array]) -> PyTree:
    """Joins the variables of devices inside `jax.shard_map`; others than these by `mean`."""

    def one(path: Path, leaf: Array) -> Array:
        if _is_fact(path):
            return jax.lax.psum(leaf, axis)
        return jax.lax.pmax(leaf, axis) if _is_state(path) else mean(leaf)

    return jax.tree_util.tree_map_with_path(one, variables)


def measure(variables: PyTree) -> tuple[PyTree, dict[str, Array]]:
    """Turns the facts of a step into metrics, and sets them back to none.

    Returns:
      The variables, and by "sqnr/path/operand" decibels, and by "saturated/..." and
      "underflowed/..." fractions of elements. NaN where nothing was cast.
    """
    metrics: dict[str, Array] = {}

    def one(path: Path, leaf: Array) -> Array:
        if not _is_fact(path):
            return leaf
        name = "/".join(word for word in _words(path) if word != DIAGNOSTICS)
        signal, noise, saturated, lost, elements = (leaf[..., i].sum() for i in range(len(SUMS)))
        metrics[f"sqnr/{name}"] = 10 * jnp.log10(signal / noise)
        metrics[f"saturated/{name}"] = saturated / elements
        metrics[f"underflowed/{name}"] = lost / elements
        return jnp.zeros_like(leaf)

    return jax.tree_util.tree_map_with_path(one, variables), metrics
