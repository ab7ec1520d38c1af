"""What the backward pass is given of the operands of `fwd`, where that is not the operands.

Codes take a quarter of the memory of floats or less; masks of what was saturated take a bit. If
`fwd` transforms its operands, the codes are of the transformed ones: gradients are computed in
the transformed domain, masked there, and brought back by the transpose of the transform.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from qjax import diagnostics
from qjax._typing import Array
from qjax.contraction import cancelling, casts, legs
from qjax.contraction.axes import Leg
from qjax.contraction.execution import role_key
from qjax.contraction.outside import trained
from qjax.contraction.policy import Gemm, Policy
from qjax.qtensor import QTensor
from qjax.quantizer import Quantizer, Stored

# What the policies of `jax.checkpoint` know codes and masks by: `save_only_these_names(SAVED)`
# keeps these and computes all else again.
SAVED = "qjax"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Kept:
    """What is kept of the two operands of a contraction.

    Attributes:
      lhs: The operand, or its codes.
      rhs: The same of the second operand.
      masks: Which elements of each have a gradient, eight to a byte; None where all have.
      measured: What the transform of `fwd` measured in the operands.
      dtypes: Names of the dtypes of both operands.
    """

    lhs: Any
    rhs: Any
    masks: tuple[Any, Any] = (None, None)
    measured: Any = ()
    dtypes: tuple[str, str] | None = dataclasses.field(default=None, metadata={"static": True})

    def operands(self) -> tuple[Array, Array]:
        """Both operands as arrays; codes are decoded to float32, or float64 beside that."""
        dtype = "float64" if self.dtypes and "float64" in self.dtypes else "float32"
        lhs, rhs = (x.decode(dtype) if isinstance(x, QTensor) else x for x in (self.lhs, self.rhs))
        return lhs, rhs


def special(policy: Policy) -> bool:
    """Whether `policy` keeps something else of the operands than themselves."""
    rounded = [q for q in (policy.fwd.lhs, policy.fwd.rhs) if isinstance(q, Quantizer)]
    sparse = any(quantizer.qtype.sparsity is not None for quantizer in rounded)
    return policy.keeps_codes or policy.clip or sparse


def rounded(policy: Policy) -> dict[tuple[Leg, str], Any]:
    """What backward legs read as `fwd` has rounded it, because they round it by nothing else.

    Returns:
      What it was rounded by, by leg and by what the operand is, as in `Policy.quantizers`.
    """
    again: tuple[tuple[Leg, str], ...] = (("dlhs", "rhs"), ("drhs", "lhs"))
    asked, found = policy.quantizers(), {}
    for leg, side in again:
        slot = asked["fwd", side]
        # The values of a packed operand are those before the transform, on no grid.
        stored = isinstance(slot, Stored) and policy.fwd.transform is None
        codes = isinstance(slot, Quantizer) and policy.keeps_codes
        if asked[leg, side] is None and (stored or codes or trained(slot) is not None):
            found[leg, side] = slot
    return found


def keep(call: legs.Call, policy: Policy, lhs: Array, rhs: Array) -> Kept:
    """What `policy` keeps of the operands."""
    gemm, measured = policy.fwd, ()
    operands = lhs, rhs = _codes_only((lhs, rhs)) if policy.keeps_codes else (lhs, rhs)
    if gemm.transform is not None:
        static, numbers = casts.split(gemm.transform)
        operands, measured = _mapped(call, static, numbers, legs.stored(gemm), lhs, rhs)
    kept, masks = [], []
    for n, (x, quantizer) in enumerate(zip(operands, (gemm.lhs, gemm.rhs))):
        tensor, mask = None, None
        if isinstance(quantizer, Quantizer):
            axes = call.labels.leg("fwd")[n]
            key = role_key(call.key, "fwd", n, quantizer)
            where = {"contract": axes.contract, "batch": axes.batch}
            tensor = quantizer.encode(x, **where, key=key)
            if not isinstance(quantizer, Stored):
                mask = _passing(policy, quantizer, x, tensor, where)
        masks.append(mask)
        whole = (lhs, rhs)[n] if not policy.keeps_codes else x
        kept.append(tensor if policy.keeps_codes and tensor is not None else whole)
    kept, masks = checkpoint_name((kept, masks), SAVED)
    names = (lhs.dtype.name, rhs.dtype.name)
    return Kept(kept[0], kept[1], (masks[0], masks[1]), measured, names)


@jax.custom_jvp
def _codes_only(operands: tuple[Array, Array]) -> tuple[Array, Array]:
    """The operands of which codes are kept, which a gradient cannot be differentiated in."""
    return operands


@_codes_only.defjvp
def _(primals: tuple, tangents: tuple) -> Any:
    raise ValueError(
        "A gradient was differentiated once more, but its contraction keeps codes of its operands, "
        "which have no derivative. Take second derivatives with `Policy(residuals='float')`."
    )


def _passing(
    policy: Policy, quantizer: Quantizer, x: Array, tensor: QTensor, where: dict[str, Any]
) -> Array | None:
    """Which elements of an operand have a gradient: those that were stored, and not cut off."""
    parts = [quantizer.kept(x, **where)]
    if policy.clip:
        parts.append(~diagnostics.beyond(x, tensor))
    known = [part for part in parts if part is not None]
    return jnp.packbits(functools.reduce(jnp.logical_and, known), axis=None) if known else None


@functools.partial(jax.jit, static_argnums=(1, 3))
def _mapped(call, static, numbers, done, lhs, rhs):
    # A call, for its constants: JAX would write a rule whose program holds some into the program
    # around it, and nobody would see the contraction there any more.
    gemm = Gemm(transform=casts.merge(static, numbers))
    bound, held = legs.bind(call, "fwd", gemm, (lhs, rhs))
    return bound.both(*held, done), bound.measured


def gradients(
    call: legs.Call, policy: Policy, kept: Kept, computed: Sequence[Array]
) -> tuple[Array, Array]:
    """The gradients of the operands, from those of what was kept of them."""
    transform = policy.fwd.transform
    bound = None
    if transform is not None:
        bound = cancelling.Cancelling(transform, call.labels.paired("fwd"), kept.measured)
    out = []
    for n, (gradient, mask) in enumerate(zip(computed, kept.masks)):
        if bound is not None and not policy.keeps_codes and mask is not None:
            gradient = bound.lifted(n, gradient)
        if mask is not None:
            inside = jnp.unpackbits(mask, count=gradient.size).reshape(gradient.shape)
            gradient = jnp.where(inside.astype(bool), gradient, 0)
        if bound is not None and (policy.keeps_codes or mask is not None):
            gradient = bound.lowered(n, gradient)
        dtype = gradient.dtype if kept.dtypes is None else kept.dtypes[n]
        out.append(gradient.astype(dtype))
    return out[0], out[1]
