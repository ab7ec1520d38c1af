"""Files of packed models: codes packed to the bit, and what each leaf is beside them.

A path that ends in ".safetensors" is one such file; any other is a folder that Orbax writes.
Both hold the same arrays and the same description, and are whole or absent. The description is
what tells types apart: Orbax by itself compares shapes and dtypes, and those of MXFP4 and MXFP6
codes, a byte each in memory, are the same.
"""

import json
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qjax import qtensor
from qjax._typing import PyTree
from qjax.recipes.stored import is_stored
from qjax.serving.sizes import kind_of, name_of

VERSION = "1"
FIELD = "qjax_model"


def save(path: str | os.PathLike[str], variables: PyTree) -> None:
    """Writes the variables of a model, packed or not.

    Needs the `checkpoints` extra.

    Args:
      path: A name that ends in ".safetensors", or a folder for Orbax, which must be new.
      variables: Arrays, keys of random numbers and QTensors in a pytree.
    """
    arrays: dict[str, np.ndarray] = {}
    facts: dict[str, Any] = {}
    keys: dict[str, str] = {}  # Such as those of an nnx module's streams: how each is drawn from.
    for place, leaf in jax.tree.leaves_with_path(variables, is_leaf=is_stored):
        name = name_of(place)
        if is_stored(leaf):
            facts[name] = qtensor.describe(name, leaf, arrays)
            continue
        if _is_key(leaf):
            keys[name], leaf = str(jax.random.key_impl(leaf)), jax.random.key_data(leaf)
        arrays[name] = np.asarray(leaf)
    about = json.dumps({"version": VERSION, "tensors": facts, "keys": keys})
    _WRITERS[_is_file(path)](pathlib.Path(path), arrays, about)


def load(path: str | os.PathLike[str], like: PyTree = None) -> PyTree:
    """Returns the variables that `save` wrote.

    Args:
      path: What `save` was given.
      like: Variables of the same structure, or what `jax.eval_shape` makes of them. None
        gives nested dictionaries by the parts of the names, as linen's variables are.

    Raises:
      ValueError: If the file is truncated or of another version; if `like` has other leaves,
        or leaves of other types or shapes: each is named with both.
    """
    arrays, about = _READERS[_is_file(path)](pathlib.Path(path))
    facts = json.loads(about)
    if facts.get("version") != VERSION:
        raise ValueError(
            f"`load` was asked to read {path}, of version {facts.get('version')!r}; this library "
            f"reads version {VERSION!r}. Use the library that wrote it, or write it again."
        )
    packed = facts["tensors"]
    inner = {part for name, fact in packed.items() for part in _parts(name, fact)}
    found = {name: jnp.asarray(x) for name, x in arrays.items() if name not in inner}
    found |= {name: qtensor.restore(name, fact, arrays, path) for name, fact in packed.items()}
    for name, kind in facts.get("keys", {}).items():
        found[name] = jax.random.wrap_key_data(found[name], impl=kind)
    return _nested(found) if like is None else _matched(found, like, path)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _parts(name: str, fact: dict[str, Any]) -> list[str]:
    """Names of the arrays that a packed tensor consists of."""
    children = [(part, fact[part]) for part in ("scale", "zero") if fact[part] is not None]
    return [name, *(n for part, child in children for n in _parts(f"{name}/{part}", child))]


def _nested(found: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, leaf in found.items():
        *folders, last = name.split("/")
        here = tree
        for folder in folders:
            here = here.setdefault(folder, {})
        here[last] = leaf
    return tree


def _matched(found: dict[str, Any], like: PyTree, path: Any) -> PyTree:
    leaves, tree = jax.tree.flatten_with_path(like, is_leaf=is_stored)
    wanted = {name_of(place): leaf for place, leaf in leaves}
    problems = [f"{name}: not in the file" for name in wanted if name not in found]
    problems += [f"{name}: not in the model" for name in found if name not in wanted]
    for name, leaf in wanted.items():
        if name in found and not _alike(found[name], leaf):
            problems.append(f"{name}: {kind_of(found[name])} in the file, {kind_of(leaf)} here")
    if problems:
        listed = "\n".join(problems)
        raise ValueError(
            f"`load` was asked to read {path} into a model that differs from it:\n{listed}\n"
            "Pack the model by the recipe that the file was packed by, or read it without `like`."
        )
    return jax.tree.unflatten(tree, [found[name] for name in wanted])


def _alike(one: Any, other: Any) -> bool:
    if is_stored(one) != is_stored(other) or kind_of(one) != kind_of(other):
        return False
    return not is_stored(one) or (one.qtype, one.layout) == (other.qtype, other.layout)


def _is_file(path: str | os.PathLike[str]) -> bool:
    return str(path).endswith(".safetensors")


def _write_file(path: pathlib.Path, arrays: dict[str, np.ndarray], about: str) -> None:
    from safetensors.numpy import save_file

    # A file under its own name is always whole.
    partial = path.with_name(path.name + ".partial")
    save_file(arrays, str(partial), metadata={FIELD: about})
    partial.replace(path)


def _read_file(path: pathlib.Path) -> tuple[dict[str, Any], str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            about = (file.metadata() or {}).get(FIELD, "{}")
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"`load` was asked to read {path}, which is no whole safetensors file ({error}). "
            "Write it again, or copy it whole."
        ) from error


def _write_folder(path: pathlib.Path, arrays: dict[str, np.ndarray], about: str) -> None:
    from orbax import checkpoint as ocp

    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as writer:
        leaves = ocp.args.StandardSave(arrays)  # type: ignore[call-arg]
        facts = ocp.args.JsonSave({FIELD: about})  # type: ignore[call-arg]
        writer.save(path.absolute(), ocp.args.Composite(arrays=leaves, about=facts))


def _read_folder(path: pathlib.Path) -> tuple[dict[str, Any], str]:
    from orbax import checkpoint as ocp

    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
        kinds = ocp.args.Composite(
            arrays=ocp.args.StandardRestore(),  # type: ignore[call-arg]
            about=ocp.args.JsonRestore(),
        )
        found = reader.restore(path.absolute(), kinds)
    return found["arrays"], found["about"][FIELD]


_WRITERS = {True: _write_file, False: _write_folder}
_READERS = {True: _read_file, False: _read_folder}
