"""The protocol of calibrations, and the two simplest: the largest magnitude and a fixed bound."""

import abc
import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from qjax._typing import Array, Shape
from qjax.formats import split

# Elements of the minor axis that are reduced side by side: the first of which four fit into it.
LANES = (32, 16, 8, 4)
# Up to so many rows of them XLA's CPU reduces in one loop over whole vectors.
ROWS = 16


@dataclasses.dataclass(frozen=True)
class Calibration(abc.ABC):
    """A statistic that bounds every tile. Stateless ones keep `()`.

    No element exceeds the bound of a `bounding` one, which is NaN where one of them is.
    """

    stateful: ClassVar[bool] = False
    bounding: ClassVar[bool] = False

    def init(self, shape: Shape) -> Any:
        """Returns the state before the first call, for bounds of `shape`."""
        return ()

    @abc.abstractmethod
    def __call__(self, view: Array, axes: tuple[int, ...], state: Any = ()) -> tuple[Array, Any]:
        """Returns bounds of the magnitudes over `axes` of `view`, dimensions kept, and the state.

        Bounds are int32 magnitude patterns of float32 (as `formats.split` gives them), which
        compare as integers and hold subnormals on processors that flush them.
        """

    def limits(self, view: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
        """Returns float32 lower and upper bounds, zero among them, for types with a zero point."""
        values = view.astype(jnp.float32)
        low = jnp.min(values, axis=axes, keepdims=True, initial=0.0)
        return low, jnp.max(values, axis=axes, keepdims=True, initial=0.0)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class AbsMax(Calibration):
    """The largest magnitude of the tile. NaN counts as larger than everything."""

    bounding: ClassVar[bool] = True

    def __call__(self, view: Array, axes: tuple[int, ...], state: Any = ()) -> tuple[Array, Any]:
        return largest(view, axes), state


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Fixed(Calibration):
    """The same bound for every tile, found beforehand.

    Attributes:
      bound: The bound, in the units of the tensor; a number that may be traced.
    """

    bound: Any

    def __repr__(self) -> str:
        return f"calibration.Fixed({self.bound!r})"  # `Fixed` alone is a format.

    def __call__(self, view: Array, axes: tuple[int, ...], state: Any = ()) -> tuple[Array, Any]:
        shape = tuple(1 if axis in axes else n for axis, n in enumerate(view.shape))
        return pattern(jnp.full(shape, self.bound, jnp.float32)), state

    def limits(self, view: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
        """Returns the bound on either side."""
        shape = tuple(1 if axis in axes else n for axis, n in enumerate(view.shape))
        bound = jnp.full(shape, self.bound, jnp.float32)
        return -bound, bound


def pattern(bound: Array) -> Array:
    """Returns the int32 magnitude patterns of float32 bounds."""
    return jax.lax.bitcast_convert_type(jnp.abs(bound.astype(jnp.float32)), jnp.int32)


def magnitude(bound: Array) -> Array:
    """Returns the float32 magnitudes of int32 patterns."""
    return jax.lax.bitcast_convert_type(bound, jnp.float32)


def largest(view: Array, axes: tuple[int, ...]) -> Array:
    """Returns magnitude patterns of the largest elements over `axes`, dimensions kept.

    Maxima of integers are exact on subnormals, which a processor may read as zeros. They are taken
    in steps, each of whole vectors, and barriers keep a compiler from joining the steps again: on
    a CPU one step over all of `axes` takes ten times as long.
    """
    _, size, _ = split(view, shallow=True)
    if not axes:
        return size
    spec, last = jax.typeof(view).sharding.spec, view.ndim - 1
    if any(spec[axis] is not None for axis in axes):
        return _over(size, axes)  # Under explicit sharding such an axis may not be cut anyhow.
    if last not in axes:
        return _over_rows(size, axes)
    width = view.shape[last]
    lanes = next((n for n in LANES if width and width % (4 * n) == 0), None)
    if lanes is None:
        return _over(size, axes)
    rows = width // lanes
    parts = [rows, lanes] if rows <= ROWS else [rows // 4, 4, lanes]
    size = jax.lax.reduce_max(size.reshape(*view.shape[:-1], *parts), (last + len(parts) - 2,))
    size = jax.lax.reduce_max(jax.lax.optimization_barrier(size), (last + len(parts) - 2,))
    if len(parts) == 2:
        size = jax.lax.expand_dims(size, (last,))
        axes = tuple(axis for axis in axes if axis != last)
    return _over(jax.lax.optimization_barrier(size), axes) if axes else size


def _over_rows(size: Array, axes: tuple[int, ...]) -> Array:
    """Returns maxima over axes other than the last, dimensions kept.

    Where these lie next to each other, first over groups of rows, then over more than 32 groups:
    XLA's CPU then takes two loops over whole vectors, up to twenty times faster than the single
    one with a long stride that it makes of fewer.
    """
    first, rows = min(axes), math.prod(size.shape[axis] for axis in axes)
    group = next((n for n in (16, 8, 4) if rows % n == 0 and rows // n > 32), 1)
    if group == 1 or max(axes) - first >= len(axes):
        return _over(size, axes)
    split = (*size.shape[:first], rows // group, group, *size.shape[max(axes) + 1 :])
    if len(axes) > 1 and split != size.shape and any(jax.typeof(size).sharding.spec):
        return _over(size, axes)  # Beside an axis that an explicit mesh splits none are regrouped.
    groups = jax.lax.optimization_barrier(jax.lax.reduce_max(size.reshape(split), (first + 1,)))
    return jax.lax.expand_dims(jax.lax.reduce_max(groups, (first,)), axes)


def _over(size: Array, axes: tuple[int, ...]) -> Array:
    """Returns maxima in one step, dimensions kept; of nothing the maximum is zero."""
    if not all(size.shape[axis] for axis in axes):
        return jnp.max(size, axis=axes, keepdims=True, initial=0)
    return jax.lax.expand_dims(jax.lax.reduce_max(size, axes), axes)
