"""How the product of one leg is carried out, once that is chosen, and the keys of its noise."""

from typing import Any

from qjax._typing import Array, Key
from qjax.contraction import blockscaled, kernels, products
from qjax.contraction.absent import Absent
from qjax.contraction.axes import Leg
from qjax.contraction.plans import Plan
from qjax.contraction.policy import LEGS, Gemm
from qjax.rounding import derived


def execute(
    plan: Plan,
    labels: Any,
    leg: Leg,
    gemm: Gemm,
    operands: tuple[Array, Array],
    key: Key | None,
) -> Array:
    """The product of a leg, in float32, with the axes of the leg's result."""
    first, second, result = labels.roles(leg)
    axes = labels.leg(leg)
    quantizers: Any = (gemm.lhs, gemm.rhs)
    if plan.kind in ("pallas", "weights"):
        run = kernels.product if plan.kind == "pallas" else kernels.weight_product
        return run((first, second, result), quantizers, operands, axes, plan.interpreted)
    keys = [role_key(key, leg, n, q) for n, q in enumerate((gemm.lhs, gemm.rhs))]
    if plan.kind == "scaled":
        noise = (keys[0], keys[1])
        return blockscaled.product(first, second, result, quantizers, operands, axes, noise)
    (lhs, lhs_scale), (rhs, rhs_scale) = (
        products.operand(plan.kind, plan.outside, quantizers[n], operands[n], axes[n], keys[n])
        for n in range(2)
    )
    return products.product(first, second, result, (lhs, rhs), (lhs_scale, rhs_scale))


def role_key(key: Key | None, leg: Leg, n: int, quantizer: Any) -> Key | None:
    """The key of one operand's noise: no two of the six operands share theirs.

    Raises:
      ValueError: If the quantizer needs a key and none came.
    """
    if not quantizer.stochastic:
        return None
    if key is None or isinstance(key, Absent):
        (key or Absent()).refuse(f"`{leg}`")
    return derived(key, 2 * LEGS.index(leg) + n + 1)
