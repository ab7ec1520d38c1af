"""Rounds the results of element-wise operations in a traced program, beside its contractions.

Every addition, product, exponential and the like, and every sum over axes, gives its result in
a small float, as on hardware whose vector units compute in it: normalizations, softmax,
activation functions, biases and sums of residuals. Gradients that come back to such a result are
rounded to the same float, so that the backward pass computes in it too. A function with a
derivative of its own (`jax.custom_jvp`, such as `jax.nn.relu`) counts as one operation. What
chooses, moves or compares numbers rounds nothing; neither do `jax.custom_vjp` rules of others
outside of the operations in them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from qjax import formats
from qjax._typing import Array
from qjax.formats import Float
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


def rounding(format: Float | str) -> Callable[[Array], Array]:
    """The function that rounds to a float of IEEE's kind, to nearest even, and its gradient too.

    Raises:
      ValueError: If the format is none of these; `jax.lax.reduce_precision` knows no others.
    """
    float_: Any = formats.parse(format) if isinstance(format, str) else format
    if not isinstance(float_, Float) or float_ != Float(float_.exponent_bits, float_.mantissa_bits):
        raise ValueError(
            f"`elementwise` takes a float with infinities and the usual bias, but {format!r} came. "
            "Give 'bfloat16', 'float16' or `formats.Float(exponent, mantissa)`."
        )
    bits = (float_.exponent_bits, float_.mantissa_bits)
    return lambda x: jax.lax.reduce_precision(x, *bits)


class ElementwiseRewriter(Rewriter):
    """Evaluates programs with chosen contractions replaced and element-wise results rounded.

    Args:
      choose: Decides about each contraction.
      format: What element-wise results are rounded to.
    """

    def __init__(self, choose: Choose, format: Float | str):
        super().__init__(choose)
        self._round = rounding(format)
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
