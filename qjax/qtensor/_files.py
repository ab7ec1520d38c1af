"""Quantized tensors in safetensors files that say what they hold."""

import dataclasses
import functools
import json
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qjax import formats
from qjax.formats import Choice, Codebook, Format
from qjax.qtensor import _sparse
from qjax.qtensor._pack import pack, unpack
from qjax.qtensor._tensor import QTensor
from qjax.qtypes import QType, Sparsity
from qjax.tiling import Layout, Tile

VERSION = "1"


def save(path: str | pathlib.Path, tensors: dict[str, QTensor]) -> None:
    """Writes named quantized tensors, codes packed, types and tiles in the metadata.

    Needs the `checkpoints` extra.
    """
    from safetensors.numpy import save_file

    arrays, facts = {}, {}
    for name, tensor in tensors.items():
        facts[name] = describe(name, tensor, arrays)
    metadata = {"qjax_version": VERSION, "qjax_tensors": json.dumps(facts)}
    save_file(arrays, str(path), metadata=metadata)


def load(path: str | pathlib.Path) -> dict[str, QTensor]:
    """Returns the tensors that `save` wrote.

    Raises:
      ValueError: If the file is truncated, of another version, or its parts disagree.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"`load` was asked to read {path}, which is no whole safetensors file ({error}). "
            "Write it again, or copy it whole."
        ) from error
    version = metadata.get("qjax_version")
    if version != VERSION:
        raise ValueError(
            f"`load` was asked to read {path}, of version {version!r}; this library reads version "
            f"{VERSION!r}. Use the library that wrote it, or write it with `save`."
        )
    try:
        facts = json.loads(metadata["qjax_tensors"])
        return {name: restore(name, fact, arrays, path) for name, fact in facts.items()}
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"`load` was asked to read {path}, whose description of its tensors is not complete "
            f"({error!r}). Write it again with `save`."
        ) from error


def describe(name: str, tensor: QTensor, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns what describes a tensor in JSON, and puts its packed codes into `arrays`.

    A stack, as `jax.vmap` of an encoding makes, is described with its leading axes.
    """
    format, layout = tensor.qtype.format, tensor.layout
    if isinstance(format, Choice):
        codes, choice = format.part(tensor.qvalue)
        arrays[f"{name}/choice"] = np.asarray(pack(_of_tiles(choice, layout), format.tile_bits))
    else:
        codes = _unsigned(tensor.qvalue, format)
    if tensor.qtype.sparsity is not None:
        codes, mask = _sparse.squeezed(tensor)
        arrays[f"{name}/kept"] = np.asarray(pack(mask, 1))
    arrays[name] = np.asarray(pack(codes, format.width))
    fact: dict[str, Any] = {
        "type": tensor.qtype.name,
        "format": format.name,
        "tile": _tile(tensor.qtype.tile),
        "dtype": tensor.dtype,
        "basis": tensor.basis,
        "stack": list(tensor.qvalue.shape[: tensor.qvalue.ndim - tensor.ndim]),
        "layout": {field: list(getattr(layout, field)) for field in layout.__dataclass_fields__},
    }
    if tensor.qtype.sparsity is not None:
        fact["sparsity"] = dataclasses.asdict(tensor.qtype.sparsity)
    if isinstance(format, Codebook):
        fact["table"] = _table(format)
    if isinstance(format, Choice):
        tables = [_table(table) for table in format.tables]
        fact["choice"] = {"tables": tables, "fitted": format.fitted, "label": format.label}
    for part, child in (("scale", tensor.scale), ("zero", tensor.zero_point)):
        fact[part] = None if child is None else describe(f"{name}/{part}", child, arrays)
    return fact


def restore(name: str, fact: dict[str, Any], arrays: dict[str, Any], path: Any) -> QTensor:
    """Returns the tensor that `describe` described; `path` is where, for messages.

    Raises:
      ValueError: If the description and the arrays disagree.
    """
    if name not in arrays:
        raise ValueError(
            f"`load` was asked to read {path}, whose description names {name!r}, but no such array "
            "is in it. Write the file again."
        )
    format = _format(fact)
    layout = Layout(**{field: tuple(value) for field, value in fact["layout"].items()})
    scale, zero = (
        None if fact[part] is None else restore(f"{name}/{part}", fact[part], arrays, path)
        for part in ("scale", "zero")
    )
    types = [None if part is None else part.qtype for part in (scale, zero)]
    sparsity = Sparsity(**fact["sparsity"]) if "sparsity" in fact else None
    qtype = QType(format, Tile(*fact["tile"]), *types, sparsity=sparsity)
    where = f"`load` was asked to read {path}, where {name!r}"
    _check_parts(where, fact, qtype, layout, scale, zero)
    choice, stack = None, tuple(fact["stack"])
    if isinstance(format, Choice):
        packed = jnp.asarray(arrays[f"{name}/choice"])
        choice = unpack(packed, format.tile_bits, (*stack, *layout.scale_shape))
        choice = _of_elements(choice, layout)
    # Files were written before tensors had a basis.
    basis = fact.get("basis", "")
    like = QTensor(jnp.zeros(0), scale, zero, qtype, layout, fact["dtype"], basis=basis)
    try:
        codes = _codes(name, arrays, like, stack, choice)
    except ValueError as error:
        raise ValueError(
            f"`load` was asked to read {path}, where the codes of {name!r} do not fit shape "
            f"{(*stack, *layout.shape)} of {format.name}: {error}"
        ) from error
    if isinstance(format, Choice):
        assert choice is not None
        return dataclasses.replace(like, qvalue=format.join(codes, choice))
    return dataclasses.replace(like, qvalue=_stored(codes, format))


def _codes(
    name: str, arrays: dict[str, Any], like: QTensor, stack: tuple[int, ...], choice: Any
) -> Any:
    """Returns the unsigned codes of all elements."""
    qtype, shape = like.qtype, (*stack, *like.shape)
    packed = jnp.asarray(arrays[name])
    if qtype.sparsity is None:
        return unpack(packed, qtype.format.width, shape)
    count = math.prod(stack) * _sparse.count(qtype.sparsity, like.layout)
    keep = unpack(jnp.asarray(arrays[f"{name}/kept"]), 1, shape) != 0
    kept = unpack(packed, qtype.format.width, (count,))
    return _sparse.stretched(kept, keep, like, choice)


def _check_parts(
    where: str, fact: dict[str, Any], qtype: QType, layout: Layout, scale: Any, zero: Any
) -> None:
    """Raises ValueError where a description says different things about one tensor."""
    if qtype.name != fact["type"]:
        raise ValueError(
            f"{where} is said to be of type {fact['type']!r}, but its parts make {qtype.name!r}. "
            "Write it again with `save`."
        )
    if not (layout.is_whole and _is_dtype(fact["dtype"])):
        raise ValueError(
            f"{where} is said to be of shape {layout.shape} and dtype {fact['dtype']!r}, flattened "
            f"to {layout.merged} in the order {layout.order}, which do not fit together. Write it "
            "again with `save`."
        )
    for part in (scale, zero):
        if part is not None and part.layout.shape != layout.scale_shape:
            raise ValueError(
                f"{where} has tiles of shape {layout.scale_shape}, but {part!r} is of shape "
                f"{part.layout.shape}: one number per tile is needed. Write it again with `save`."
            )


def _is_dtype(name: str) -> bool:
    try:
        return jnp.issubdtype(jnp.dtype(name), jnp.inexact)
    except TypeError:
        return False


def _of_tiles(choice: Any, layout: Layout) -> Any:
    """Returns the number that all elements of a tile share, one per tile, stacks flattened."""

    def each(whole: Any) -> Any:
        view = layout.split(whole)
        return layout.gather(jnp.max(view, axis=layout.axes, keepdims=True))

    return jax.vmap(each)(choice.reshape(-1, *layout.shape))


def _of_elements(choice: Any, layout: Layout) -> Any:
    """Returns one number per element from one per tile, for each of a stack."""
    stack = choice.shape[: choice.ndim - len(layout.scale_shape)]
    spread = jax.vmap(layout.spread)(choice.reshape(-1, *layout.scale_shape))
    return spread.reshape(*stack, *layout.shape)


def _tile(tile: Tile) -> list[int | None]:
    extents = [tile.contract, tile.keep]
    return extents if tile == Tile(*extents) else [*extents, tile.axis, tile.across]


def _table(format: Codebook) -> dict[str, Any]:
    return {"values": format.table, "label": format.label, "bounds": format.bounds}


def _format(fact: dict[str, Any]) -> Format:
    if "choice" in fact:
        choice = fact["choice"]
        tables = tuple(_codebook(table) for table in choice["tables"])
        return Choice(tables, fitted=choice["fitted"], label=choice["label"])
    return _codebook(fact["table"]) if "table" in fact else formats.parse(fact["format"])


def _codebook(table: dict[str, Any]) -> Codebook:
    bounds = None if table["bounds"] is None else tuple(table["bounds"])
    return Codebook(tuple(table["values"]), label=table["label"], bounds=bounds)


@functools.partial(jax.jit, static_argnames="format")
def _unsigned(qvalue: Any, format: Format) -> Any:
    """Returns stored codes as the format writes them."""
    return format.encode(format.load(qvalue))


@functools.partial(jax.jit, static_argnames="format")
def _stored(codes: Any, format: Format) -> Any:
    """Returns unsigned codes as an array of the format's storage dtype."""
    if jnp.issubdtype(format.code_dtype, jnp.signedinteger):
        # Two's complement: carry the sign bit to the width of the dtype.
        lost = 8 * format.code_bytes - format.width
        codes = codes.astype(format.code_dtype) << lost >> lost
    return format.store(format.decode(codes.astype(format.code_dtype)))
