"""Turns the weights of a model into packed tensors, as its recipe quantizes them.

Which leaf is a weight of which contraction, and along which axes it is contracted, is read
from the model's program, which is traced and never run. What a leaf cannot be packed for is
said by name: an error, or a warning where the caller prefers a model that is part float.
"""

import warnings
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax

from qjax._typing import Key, PyTree
from qjax.contraction.record import Contraction
from qjax.recipes import Recipe
from qjax.recipes.weights import Uses, find
from qjax.serving.plans import Plan, Unpackable, by_shape, is_packable, only, plan
from qjax.serving.sizes import name_of


class UnpackedWarning(UserWarning):
    """A weight that a rule quantizes stays an array, and is quantized at every call."""


def pack(
    apply: Callable[..., Any],
    variables: PyTree,
    inputs: Sequence[Any],
    *,
    key: Key | None = None,
    strict: bool = True,
) -> PyTree:
    """Packs the weights of a quantized model; `qjax.pack` is the door to this.

    Args:
      apply: The quantized model as a function of its variables and inputs.
      variables: Its variables: arrays, or their shapes under `jax.eval_shape`.
      inputs: Example inputs: arrays or `jax.ShapeDtypeStruct`.
      key: Key of the noise, where the recipe rounds weights stochastically.
      strict: Whether to raise, not to warn, where a weight cannot be packed as asked.

    Returns:
      The variables, with a QTensor in the place of every packed weight.

    Raises:
      ValueError: If `strict` and a weight that a rule quantizes cannot be packed, or if none
        is found.
    """
    leaves, tree = jax.tree.flatten_with_path(variables)
    plans, problems = _plans(leaves, find(apply, variables, *inputs), key)
    _tell(problems, plans, strict)
    result = jax.tree.unflatten(tree, _encoded(leaves, plans, key))
    # The model must run on what it gets: whatever does not fit says so now, not when served.
    jax.eval_shape(apply, result, *inputs)
    return result


def _plans(leaves: Sequence[Any], uses: Uses, key: Key | None) -> tuple[dict[int, Plan], list[str]]:
    """How leaves are packed, by their numbers, and what stands against it for the others."""
    plans: dict[int, Plan] = {}
    problems = [
        f"{known.path or '(top)'} ({known.op} of {known.shapes[0]} and {known.shapes[1]}): "
        f"{_why_computed(known, side)}"
        for known, side in uses.computed
    ]
    for n, (path, leaf) in enumerate(leaves):
        own = [use for use in uses.contractions if use.track.leaf == n]
        others = [name for leaf_n, name in uses.others if leaf_n == n]
        try:
            found = plan(own, others) if own and is_packable(leaf) else None
            if found is not None:
                jax.eval_shape(found.encode, leaf, key)
                plans[n] = found
        except Unpackable as error:
            problems.append(f"{name_of(path)}: {error}")
    return plans, problems


def _why_computed(known: Contraction, side: int) -> str:
    """Why a weight does not come to its contraction as it is stored."""
    try:
        only((known.policy.fwd.lhs, known.policy.fwd.rhs)[side])
    except Unpackable as error:
        return str(error)
    return "its weight is computed, not moved, from variables"


def pack_by_names(variables: PyTree, recipe: Recipe, *, key: Key | None = None) -> PyTree:
    """Packs what names and shapes alone decide: matrices called "kernel", as in `nn.Dense`.

    Args:
      variables: Variables of a linen module.
      recipe: The recipe; a layer's path is that of its kernel.
      key: Key of the noise, where the recipe rounds weights stochastically.

    Returns:
      The variables, with a QTensor in the place of every packed weight. Leaves that are not
      called "kernel" stay as they are.

    Raises:
      ValueError: If a kernel is no matrix, so that the model itself must say how it is
        contracted, or if no rule quantizes a kernel.
    """
    leaves, tree = jax.tree.flatten_with_path(variables)
    plans: dict[int, Plan] = {}
    problems = []
    for n, (path, leaf) in enumerate(leaves):
        *layer, last = name_of(path).split("/")
        if last != "kernel" or not is_packable(leaf):
            continue
        match = recipe.match("/".join(layer[1:]), "dot_general")
        gemm = None if match is None else match[1].policy.fwd
        if gemm is None or gemm.rhs is None:
            continue
        try:
            plans[n] = by_shape(leaf.shape, gemm)
        except Unpackable as error:
            problems.append(f"{name_of(path)}: {error}; pass `model=` and `inputs=`")
    _tell(problems, plans, True)
    return jax.tree.unflatten(tree, _encoded(leaves, plans, key))


def _tell(problems: list[str], plans: dict[int, Plan], strict: bool) -> None:
    if problems and strict:
        listed = "\n".join(problems)
        raise ValueError(
            f"`pack` was asked to pack every weight that a rule quantizes, but cannot:\n{listed}\n"
            "Exempt them by a rule, or pass `strict=False` to leave them as arrays."
        )
    for problem in problems:
        warnings.warn(f"`pack` left a weight as it is: {problem}", UnpackedWarning, stacklevel=4)
    if not plans:
        raise ValueError(
            "`pack` was asked to pack the weights that a rule quantizes in the forward pass, but "
            "found none. Give a recipe with `fwd.rhs`, and variables that are not packed yet."
        )


def _encoded(leaves: Sequence[Any], plans: dict[int, Plan], key: Key | None) -> list[Any]:
    out = []
    for n, (path, leaf) in enumerate(leaves):
        if n in plans:
            own = None
            if key is not None and plans[n].quantizer.stochastic:
                own = jax.random.fold_in(key, zlib.crc32(name_of(path).encode()))
            leaf = plans[n].encode(leaf, own)
        out.append(leaf)
    return out
