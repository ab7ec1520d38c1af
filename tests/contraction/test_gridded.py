"""Integer accumulators beside trained operands: the sums of the integers that these stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import Gemm, Policy, operands
from qjax.contraction import Hadamard, IntegerAccumulator
from qjax.contraction.variables import Values
from tests.draws import normal

X = normal(0, (6, 16))
W = normal(1, (16, 5)) / 4
NUMBERS = (((1,), (0,)), ((), ()))
LHS = operands.LSQ(bits=4)
GRIDS = {
    "lsq": operands.LSQ(bits=3),
    "lsq channel": operands.LSQ(bits=4, granularity="channel"),
    "cold lsq": operands.LSQ(bits=3, learned=False),
    "pact": operands.PACT(bits=3, bound=0.3),
    "spaced from zero": operands.Spaced(bits=3, high=0.4, learned=("high",)),
    "bounded": operands.L1Bounded(accumulator=12, centred=True),
    "point": operands.LearnedPoint(bits=5),
    "mapped": operands.Mapped(jnp.tanh, operands.LSQ(bits=3)),
}


def product(x, w, rhs, params=None, **gemm):
    """The product, and what its operands have learned."""
    values = Values(params) if params is not None else Values()
    policy = Policy(fwd=Gemm(LHS, rhs, **gemm))
    out = qjax.dot_general(x, w, NUMBERS, policy=policy, variables=values)
    return out, values.params


def parts(operand, x, contract):
    """The integers of an operand and its step, by NumPy."""
    where = {"contract": contract, "batch": ()}
    params = operand.params(x, **where)
    values, _ = operand.apply(x, params, (), key=None, **where)
    step = np.asarray(operand.grid(x, params, **where), np.float64)
    units = np.asarray(values, np.float64) / step
    fine = float(jnp.finfo(x.dtype).eps)  # Values are rounded to their dtype.
    np.testing.assert_allclose(units, np.rint(units), rtol=2 * fine, atol=2 * fine)
    assert all(step.shape[axis] == 1 for axis in contract if step.ndim)
    return np.rint(units).astype(np.int64), step


@pytest.mark.parametrize("name", GRIDS)
def test_the_integers_are_summed_and_wrap(name):
    (a, s), (b, t) = parts(LHS, X, (1,)), parts(GRIDS[name], W, (0,))
    exact = a @ b
    for bits in (4, 24):
        out, _ = product(X, W, GRIDS[name], accumulator=IntegerAccumulator(bits, overflow="wrap"))
        half = 1 << (bits - 1)
        wrapped = (exact + half) % (2 * half) - half
        np.testing.assert_allclose(out, wrapped * s * t, rtol=1e-5, atol=1e-6)
    assert np.abs(exact).max() >= 8, "four bits are too few"


def test_gradients_are_those_without_an_accumulator():
    wide = IntegerAccumulator(32, overflow="wrap")
    _, params = product(X, W, GRIDS["lsq channel"])

    def loss(x, w, params, **gemm):
        return jnp.sum(jnp.sin(product(x, w, GRIDS["lsq channel"], params, **gemm)[0]))

    plain = jax.grad(loss, (0, 1, 2))(X, W, params)
    summed = jax.jit(jax.grad(lambda *xs: loss(*xs, accumulator=wide), (0, 1, 2)))(X, W, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), plain, summed)
    assert float(jnp.abs(summed[2]["fwd_rhs"]["step"]).max()) > 0


def test_a_quantizer_may_stand_on_the_other_side_and_a_transform_before():
    wide = {"accumulator": IntegerAccumulator(32), "transform": Hadamard(8, seed=1)}
    with_it, _ = product(X, W, "int8_channel", **wide)
    plain, _ = product(X, W, "int8_channel", transform=wide["transform"])
    np.testing.assert_allclose(with_it, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "operand",
    [
        operands.LSQPlus(bits=3),
        operands.SoftLevels(bits=3),
        operands.LearnedBits(),
        operands.Spaced(bits=3, low=-1.0),
        operands.Estimated(qjax.Quantizer("int8_channel")),
    ],
)
def test_operands_without_a_step_are_refused(operand):
    with pytest.raises(ValueError, match=r"not said to be integers times one step"):
        product(X, W, operand, accumulator=IntegerAccumulator(16))


def test_integers_too_wide_for_the_dtype_are_refused():
    narrow, accumulator = X.astype(jnp.bfloat16), IntegerAccumulator(32)
    with pytest.raises(ValueError, match=r"too wide for operands of bfloat16"):
        product(narrow, W.astype(jnp.bfloat16), operands.LSQ(bits=9), accumulator=accumulator)
    (a, s), (b, t) = parts(LHS, narrow, (1,)), parts(GRIDS["lsq"], W.astype(jnp.bfloat16), (0,))
    out, _ = product(narrow, W.astype(jnp.bfloat16), GRIDS["lsq"], accumulator=accumulator)
    np.testing.assert_allclose(out.astype(jnp.float32), a @ b * s * t, rtol=1e-2)
