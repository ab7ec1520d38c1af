"""Rounds the results of element-wise operations in a traced program, beside its contractions.

Every addition, product, exponential and the like, and every sum over axes, gives its result in
a small float or another format, as on hardware whose vector units compute in it: normalizations,
softmax, activation functions, biases and sums of residuals. Gradients that come back to a result
in a float are rounded to it too, so that the backward pass computes in it. A function with a
derivative of its own (`jax.custom_jvp`, such as `jax.nn.relu`) counts as one operation. What
chooses, moves or compares numbers rounds nothing; neither do `jax.custom_vjp` rules of others
outside of the operations in them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from qjax import gradients
from qjax._typing import Array
from qjax.formats import Float
from qjax.quantizer import Quantizer
from qjax.recipes.equations import as_it_is
from qjax.recipes.places import Place, Wanted
from qjax.recipes.rewrite import Choose, Rewriter
from qjax.recipes.roles import Role
from qjax.recipes.walk import is_marked

ONE_UNIT = "custom_jvp_call"
ROUNDED = frozenset((
    "add", "add_any", "sub", "mul", "div", "rem", "pow", "integer_pow", "square", "sqrt", "rsqrt",
    "cbrt", "exp", "exp2", "expm1", "log", "log1p", "logistic", "tanh", "sin", "cos", "tan",
    "sinh", "cosh", "asin", "acos", "atan", "atan2", "erf", "erfc", "erf_inv", "lgamma",
    "digamma", "reduce_sum", "reduce_prod", "cumsum", "cumprod", "cumlogsumexp",
))  # fmt: skip


def rounding(to: Any) -> Callable[[Array], Array]:
    """The function that rounds a result.

    A float of IEEE's kind rounds the gradient too; through other formats and quantizers, such as
    fixed point with the roundings of hardware, the gradient passes as it is.

    Args:
      to: A Quantizer, a QType, a Format or a name; tiles run along the last axis.

    Raises:
      ValueError: If it draws noise or remembers, for which there is no place here.
    """
    quantizer = to if isinstance(to, Quantizer) else Quantizer(to)
    if quantizer.stochastic or quantizer.calibration.stateful:
        raise ValueError(
            f"`elementwise` takes what rounds without noise and remembers nothing, but {to!r} "
            "came. Give for instance 'bfloat16' or a fixed-point format."
        )
    format = quantizer.qtype.format
    ieee = isinstance(format, Float) and format == Float(format.exponent_bits, format.mantissa_bits)
    if ieee and quantizer == Quantizer(format):
        bits = (format.exponent_bits, format.mantissa_bits)
        return lambda x: jax.lax.reduce_precision(x, *bits)

    def cast(x: Array) -> Array:
        contract = (-1,) if x.ndim else ()
        return gradients.through(x, quantizer.cast(jax.lax.stop_gradient(x), contract=contract))

    return cast


class ElementwiseRewriter(Rewriter):
    """Evaluates programs with chosen contractions replaced and element-wise results rounded.

    Args:
      choose: Decides about each contraction.
      to: What element-wise results are rounded to.
    """

    def __init__(self, choose: Choose, to: Any):
        super().__init__(choose)
        self._round = rounding(to)
        self._contractions = Rewriter(choose)

    def wants(self, eqn: JaxprEqn, scopes: tuple[str, ...]) -> Wanted | None:
        if is_marked(scopes):
            return super().wants(eqn, scopes)
        if eqn.primitive.name == ONE_UNIT:
            inside = self._contractions.wants(eqn, scopes)
            return inside or (Wanted() if _smooth(eqn) else None)
        if eqn.primitive.name in ROUNDED:
            return Wanted() if _smooth(eqn) else None
        return super().wants(eqn, scopes)

    def replace(
        self, eqn: JaxprEqn, operands: list[Any], roles: list[Role], place: Place
    ) -> Sequence[Any]:
        name = eqn.primitive.name
        unit = name == ONE_UNIT and self._contractions.wants(eqn, place.scopes) is None
        if not unit and name not in ROUNDED:
            return super().replace(eqn, operands, roles, place)
        out = as_it_is(eqn, operands)
        return [self._round(x) if _is_smooth(x) else x for x in out]


def _smooth(eqn: JaxprEqn) -> bool:
    return any(_is_smooth(v.aval) for v in eqn.outvars)


def _is_smooth(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)
