"""What the derivative of a leg is, where somebody differentiates a derivative.

A first derivative never comes here: its legs are what the policy says. Hessians and their like
differentiate the legs, whose roundings count as the identity then: a leg is bilinear in its
operands as they were rounded, in float32, whatever its product was carried out on. Narrow sums,
approximate products, samplings and roundings of results are those of the values alone.

Inside `jax.lax.scan` JAX drops every rule of this kind, also that of `gradients.through`, when it
takes the first derivative: there, second derivatives lack the terms that pass a rounding.
"""

import dataclasses
import functools
from typing import Any

import jax

from qjax import gradients
from qjax._typing import Array
from qjax.contraction import casts, legs
from qjax.contraction.axes import Leg
from qjax.contraction.legs import Call
from qjax.contraction.policy import Gemm


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def compute(
    leg: Leg,
    implementation: Any,
    static: tuple,
    numbers: tuple[Array, ...],
    call: Call,
    operands: tuple[Array, Array],
    like: Array | None,
) -> Array:
    """`legs.compute` for the gemm that `casts.split` took apart, with a derivative."""
    gemm = casts.merge(static, numbers)
    return legs.compute(call, leg, gemm, implementation, operands, like)


@compute.defjvp
def _(leg: Leg, implementation: Any, static: tuple, primals: tuple, tangents: tuple) -> Any:
    numbers, call, operands, like = primals
    out = compute(leg, implementation, static, *primals)
    rounded = functools.partial(_rounded, call, leg, casts.merge(static, numbers), like)
    _, tangent = jax.jvp(rounded, (operands,), (tangents[2],))
    return out, tangent.astype(out.dtype)


def _rounded(
    call: Call, leg: Leg, gemm: Gemm, like: Array | None, operands: tuple[Array, Array]
) -> Array:
    """The leg on operands that are rounded, with the identity as derivative, and then exact."""
    if gemm.transform is not None:
        operands = legs.transformed(call, leg, gemm, operands)
    plain = dataclasses.replace(gemm, sampling=None)
    values = legs.values(call, leg, plain, jax.lax.stop_gradient(operands))
    through = [gradients.through(x, v) for x, v in zip(operands, values, strict=True)]
    return legs.exact(call, leg, (through[0], through[1]), like)
