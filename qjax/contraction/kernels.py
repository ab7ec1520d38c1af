"""Legs by Pallas kernels: which fit, and how their operands are brought to them."""

from typing import Any

import jax
import jax.numpy as jnp

from qjax._typing import Array, Shape
from qjax.contraction import pallas, products
from qjax.contraction.axes import Labels, OperandAxes
from qjax.contraction.pallas.targets import Target
from qjax.contraction.policy import Gemm
from qjax.quantizer import Quantizer

Roles = tuple[Labels, Labels, Labels]
Pair = tuple[OperandAxes, OperandAxes]


def product(
    roles: Roles,
    quantizers: tuple[Quantizer, Quantizer],
    operands: tuple[Array, Array],
    axes: Pair,
    interpreted: bool,
) -> Array:
    """The float32 product of operands that a kernel quantizes to bfloat16.

    Args:
      roles: Labels of both operands and of the result.
      quantizers: Of the operands.
      operands: Floating-point arrays.
      axes: Roles of their axes.
      interpreted: Whether kernels are run step by step.
    """
    values = [
        pallas.cast(
            quantizer,
            x,
            contract=own.contract,
            batch=own.batch,
            dtype=jnp.bfloat16,
            target=_target(interpreted),
        )
        for quantizer, x, own in zip(quantizers, operands, axes)
    ]
    return products.product(*roles, (values[0], values[1]))


def only_weights(gemm: Gemm, labels: Any, shapes: tuple[Shape, Shape]) -> str:
    """Why a leg whose first operand stays as it is has no kernel; empty where it has one."""
    quantizer = gemm.rhs
    if gemm.lhs is not None or not isinstance(quantizer, Quantizer):
        return "an operand is not quantized"
    if quantizer.stochastic or quantizer.calibration.stateful:
        return "weights that need a key or a state"
    lhs, rhs, out = labels.lhs, labels.rhs, labels.out
    if len(rhs) != 2 or not lhs or rhs[0] != lhs[-1] or out != (*lhs[:-1], rhs[1]):
        return "no product of rows with a matrix"
    return pallas.packs(quantizer.qtype, (shapes[1][0], shapes[1][1]))


def weight_product(
    roles: Roles,
    quantizers: tuple[None, Quantizer],
    operands: tuple[Array, Array],
    axes: Pair,
    interpreted: bool,
) -> Array:
    """The float32 product with weights that the kernel decodes; arguments as for `product`."""
    del roles  # Rows by a matrix: `only_weights` saw to it.
    x, weights = operands
    own = axes[1]
    tensor = quantizers[1].encode(weights, contract=own.contract, batch=own.batch)
    rows = x.reshape(-1, x.shape[-1])
    out = pallas.matmul(rows, tensor, target=_target(interpreted))
    return out.reshape(*x.shape[:-1], weights.shape[1])


def _target(interpreted: bool) -> Target:
    if interpreted:
        return "interpreted"
    return "tpu" if jax.default_backend() == "tpu" else "gpu"
