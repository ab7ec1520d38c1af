"""Convolutions with quantized operands and gradients, in any number of dimensions.

A convolution sums over the input channels and the window. The window slides, so an axis of
space is contracted and kept at once; scales treat it as contracted. One per channel of the
kernel and one per image of the input can then be taken out of the sum, and tiles run along
the channels first and then along space.
"""

import dataclasses
import math
from collections.abc import Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qjax._typing import Array, DTypeLike, Key, Shape
from qjax.contraction import windows
from qjax.contraction.axes import Labelling, Leg, OperandAxes, Paired
from qjax.contraction.ops import checked
from qjax.contraction.policy import Policy
from qjax.contraction.stored import shape_of
from qjax.contraction.variables import Variables

Padding = str | Sequence[tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class Convolution:
    """`jax.lax.conv_general_dilated` with everything but its operands fixed."""

    window_strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]
    dimension_numbers: jax.lax.ConvDimensionNumbers
    feature_group_count: int = 1
    batch_group_count: int = 1
    precision: Hashable = None
    preferred_element_type: DTypeLike | None = None
    out_sharding: Hashable = None

    def __call__(self, lhs: Array, rhs: Array) -> Array:
        settings = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return jax.lax.conv_general_dilated(lhs, rhs, **settings)

    def labels(self, lhs_ndim: int, rhs_ndim: int) -> "Convolution":
        del lhs_ndim, rhs_ndim  # They are the lengths of the specs.
        return self

    def leg(self, leg: Leg) -> tuple[OperandAxes, OperandAxes]:
        """Axes of both operands of a leg, in the order of the fields of `Gemm`."""
        numbers = self.dimension_numbers
        lhs, rhs, out = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
        if leg == "fwd":
            return _over(lhs, 1), _over(rhs, 1)
        if leg == "dlhs":
            return _over(out, 1), _over(rhs, 0)
        return _over(lhs, 0), _over(out, 0)

    def paired(self, leg: Leg) -> Paired:
        """Features in `fwd` and `dlhs`, images in `drhs`; never space, over which windows slide."""
        numbers = self.dimension_numbers
        lhs, rhs, out = map(tuple, (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec))
        features, images = self.feature_group_count, self.batch_group_count
        if leg == "fwd":
            return Paired(lhs[1:2], rhs[1:2], lhs_groups=features)
        if leg == "dlhs":
            groups = features * images
            return Paired(out[1:2], rhs[0:1], lhs_groups=groups, rhs_groups=groups)
        return Paired(lhs[0:1], out[0:1], lhs_groups=images)

    def unfolded(
        self, leg: Leg, operands: tuple[Array, Array], shapes: tuple[Shape, Shape], extra: Any
    ) -> tuple[Array, Array, Labelling]:
        """The leg as a product of windows."""
        del extra
        numbers, groups = self.dimension_numbers, self.feature_group_count * self.batch_group_count
        images = self.batch_group_count > 1
        batch, features = (("g", "n"), ("c",)) if images else (("n",), ("g", "c"))
        of = {
            "lhs": windows.roles(numbers.lhs_spec, batch, features, "i", groups),
            "rhs": windows.roles(numbers.rhs_spec, ("g", "o"), ("c",), "k", groups),
            "out": windows.roles(numbers.out_spec, ("n",), ("g", "o"), "j", groups),
        }
        return windows.product(leg, operands, of, self._tables(shapes))

    def _tables(self, shapes: tuple[Shape, Shape]) -> list[tuple[np.ndarray, int]]:
        """Input positions by output position and tap, for each axis of space, and their number."""
        arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        result, numbers = jax.eval_shape(self, *arrays).shape, self.dimension_numbers
        tables = []
        for s in range(len(self.window_strides)):
            size = shapes[0][numbers.lhs_spec[2 + s]]
            table = windows.inputs(
                result[numbers.out_spec[2 + s]],
                shapes[1][numbers.rhs_spec[2 + s]],
                size,
                stride=self.window_strides[s],
                low=self.padding[s][0],
                dilation=self.rhs_dilation[s],
                spacing=self.lhs_dilation[s],
            )
            tables.append((table, size))
        return tables

    def flops(self, lhs_shape: Sequence[int], rhs_shape: Sequence[int]) -> int:
        """Multiplications and additions of one leg, those with padding included."""
        operands = [jax.ShapeDtypeStruct(s, jnp.float32) for s in (lhs_shape, rhs_shape)]
        channels = rhs_shape[self.dimension_numbers.rhs_spec[0]]
        return 2 * jax.eval_shape(self, *operands).size * math.prod(rhs_shape) // max(channels, 1)

    def accumulate(self, dtype: DTypeLike) -> "Convolution":
        return dataclasses.replace(self, preferred_element_type=jnp.dtype(dtype))


def _over(spec: Sequence[int], features: int) -> OperandAxes:
    # Flattened in order, so tiles run along the features first.
    return OperandAxes(contract=(*spec[2:], spec[features]), batch=())


def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: Padding,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Hashable = None,
    preferred_element_type: DTypeLike | None = None,
    out_sharding: Hashable = None,
    *,
    policy: Policy,
    key: Key | None = None,
    variables: Variables | None = None,
) -> Array:
    """Computes `jax.lax.conv_general_dilated` with quantized operands and gradients.

    Args:
      lhs: Array of floating point: the images.
      rhs: Array of floating point: the kernel.
      window_strides: As in JAX, like all arguments from here to `out_sharding`.
      padding: "SAME", "VALID", or pairs of numbers.
      lhs_dilation: Of the images; `rhs_dilation` is of the kernel.
      policy: How the six operands are quantized.
      key: Key of the noise, needed where `policy` rounds stochastically.
      variables: What its operands learn and remember, needed where they do.

    Returns:
      The convolution, in the shape and dtype that JAX gives.

    Raises:
      TypeError: If an operand is not of floating point, or `policy` is no `Policy`.
      ValueError: If `policy` rounds stochastically and `key` is None.
    """
    shapes = shape_of(lhs), shape_of(rhs)
    numbers = jax.lax.conv_dimension_numbers(*shapes, dimension_numbers)
    space = _space(*shapes, numbers, window_strides, padding, lhs_dilation, rhs_dilation)
    groups = (feature_group_count, batch_group_count)
    op = Convolution(*space, numbers, *groups, precision, preferred_element_type, out_sharding)
    return checked("conv_general_dilated", op, lhs, rhs, policy, key, variables=variables)


def _space(
    lhs: Shape,
    rhs: Shape,
    numbers: jax.lax.ConvDimensionNumbers,
    strides: Sequence[int],
    padding: Padding,
    lhs_dilation: Sequence[int] | None,
    rhs_dilation: Sequence[int] | None,
) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...], tuple[int, ...], tuple[int, ...]]:
    """How windows move: strides, padding in numbers, and the dilations of both operands."""
    ones = (1,) * (len(lhs) - 2)
    within = tuple(rhs_dilation or ones)
    if isinstance(padding, str):
        window = [rhs[i] for i in numbers.rhs_spec[2:]]
        reach = [(n - 1) * d + 1 if n else 0 for n, d in zip(window, within)]
        sizes = [lhs[i] for i in numbers.lhs_spec[2:]]
        padding = jax.lax.padtype_to_pads(sizes, reach, strides, padding)
    pairs = tuple((int(low), int(high)) for low, high in padding)
    return tuple(strides), pairs, tuple(lhs_dilation or ones), within
