"""How a run lies on several devices: a mesh, and rules from parameter paths to its axes.

The step itself is written for one device; XLA splits it by what is placed here. Noise of
stochastic rounding is a function of an element's place in the whole array, so results do not
depend on the number of devices. Starting several processes is `qjax.train.distributed`.
"""

import dataclasses
import math
import re
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from qjax._typing import PyTree
from qjax.train.state import State


def make_mesh(**sizes: int) -> Mesh:
    """Returns a mesh with named axes over the devices of all processes.

    Args:
      **sizes: Devices along each axis, outermost first; one may be -1: what is left.

    Raises:
      ValueError: If the sizes do not fit the number of devices.
    """
    count = jax.device_count()
    known = math.prod(size for size in sizes.values() if size != -1)
    shape = {name: count // max(known, 1) if s == -1 else s for name, s in sizes.items()}
    used = math.prod(shape.values())
    if used < 1 or used > count or list(sizes.values()).count(-1) > 1:
        raise ValueError(
            f"`make_mesh` was asked for {sizes}, but there are {count} devices. Give sizes whose "
            "product is at most that, at most one of them -1."
        )
    devices = jax.devices()[:used]
    kinds = (AxisType.Auto,) * len(shape)
    return jax.make_mesh(tuple(shape.values()), tuple(shape), kinds, devices=devices)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placement:
    """Where parameters, optimizer state and batches lie.

    Attributes:
      mesh: From `make_mesh`.
      rules: Pairs of a pattern and a PartitionSpec; the first pattern that matches the end of a
        leaf's path ("block_0/up/kernel") decides, and the moments of the optimizer follow their
        parameter. Scalars, and what no rule names, are on every device.
      batch: Mesh axes that the first axis of a batch is split over.
      rows: Whether the batches of each process hold all rows of a step, or its own alone.
      fully: Mesh axis over which leaves that no rule names are split, along their largest axis
        that divides (fully-sharded data parallel); None: not split.
    """

    mesh: Mesh
    rules: tuple[tuple[str, PartitionSpec], ...] = ()
    batch: tuple[str, ...] = ("data",)
    rows: Literal["all", "own"] = "all"
    fully: str | None = None

    def __post_init__(self) -> None:
        axes = set(self.batch) | ({self.fully} if self.fully else set())
        for _, spec in self.rules:
            axes |= {name for part in spec if part for name in np.atleast_1d(part)}
        if unknown := sorted(map(str, axes - set(self.mesh.axis_names))):
            raise ValueError(
                f"`Placement` names the mesh axes {', '.join(unknown)}, but the mesh has "
                f"{', '.join(self.mesh.axis_names)}. Name those, or make another mesh."
            )

    def state(self, state: State, *, tile: int | None = None) -> State:
        """Returns `state` with every leaf where the rules put it.

        Args:
          state: A state on any devices.
          tile: Elements that share a scale; split axes must then give each device whole tiles.
            None refuses no split: values are those of one device in any case, but XLA sends
            what it needs of a tile that two devices share.

        Raises:
          ValueError: If an axis does not divide over its devices, or a tile would straddle two.
        """

        def place(path: Any, leaf: jax.Array) -> jax.Array:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            spec = self.spec(name, leaf.shape)
            _check(name, leaf.shape, spec, self.mesh, tile)
            return _put(leaf, NamedSharding(self.mesh, spec))

        return jax.tree_util.tree_map_with_path(place, state)

    def spec(self, path: str, shape: tuple[int, ...]) -> PartitionSpec:
        """Returns how a leaf of this path and shape is split."""
        if not shape:
            return PartitionSpec()
        path = path.removesuffix("/qvalue")  # The codes of a moment lie as their parameter does.
        for pattern, spec in self.rules:
            if re.fullmatch(f"(.*/)?{pattern}", path) and len(spec) <= len(shape):
                return spec
        if self.fully is not None:
            ways = self.mesh.shape[self.fully]
            for axis in sorted(range(len(shape)), key=lambda a: -shape[a]):
                if shape[axis] % ways == 0:
                    return PartitionSpec(*([None] * axis), self.fully)
        return PartitionSpec()

    def batches(self, stacked: PyTree) -> PyTree:
        """Places batches [C, B, ...] with B split over the devices."""
        sharding = NamedSharding(self.mesh, PartitionSpec(None, self.batch))
        if self.rows == "own":
            return jax.tree.map(
                lambda leaf: jax.make_array_from_process_local_data(sharding, leaf), stacked
            )
        return jax.tree.map(lambda leaf: _put(leaf, sharding), stacked)


def _put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    if jax.process_count() == 1:
        return jax.device_put(leaf, sharding)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _put(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    whole = np.asarray(leaf)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def _check(
    path: str, shape: tuple[int, ...], spec: PartitionSpec, mesh: Mesh, tile: int | None
) -> None:
    for axis, names in enumerate(spec):
        if not names:
            continue
        ways = math.prod(mesh.shape[name] for name in np.atleast_1d(names))
        if shape[axis] % ways:
            raise ValueError(
                f"A rule splits axis {axis} of {path} {shape} over {ways} devices, which does not "
                "divide it. Choose another axis or mesh."
            )
        if tile is not None and (shape[axis] // ways) % tile:
            raise ValueError(
                f"A rule gives each of {ways} devices {shape[axis] // ways} elements of axis "
                f"{axis} of {path} {shape}, so tiles of {tile} would straddle two devices. Split "
                "another axis, or over fewer devices."
            )
