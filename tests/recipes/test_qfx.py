"""QFX: a layer equals whole-number arithmetic to the bit, and its integers are exported."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import Quantizer
from qjax.contraction.operands import LearnedPoint
from qjax.contraction.variables import Values
from qjax.recipes import qfx
from qjax.rounding import Floor, NearestUp
from tests.draws import normal

DIMENSIONS = (((1,), (0,)), ((), ()))
X = 3 * normal(0, (16, 40))
W = normal(1, (40, 12)) / 5


def layer(policy):
    """The output, the exported integers of both operands and the bits after their points."""
    values = Values()
    out = qjax.dot_general(X, W, DIMENSIONS, policy=policy, variables=values)
    assert values.params is not None
    exported = [
        operand.encode(x, values.params[side])
        for operand, x, side in ((policy.fwd.lhs, X, "fwd_lhs"), (policy.fwd.rhs, W, "fwd_rhs"))
    ]
    return np.asarray(out), [(np.asarray(c, np.int64), int(f)) for c, f in exported]


@pytest.mark.parametrize(("bits", "ones"), [(8, None), (4, None), (8, 2), (8, 1)])
def test_a_layer_is_that_of_whole_numbers(bits, ones):
    out, ((x, fx), (w, fw)) = layer(qfx.policy(bits, ones))
    exact = x @ w
    assert np.array_equal(out * 2.0 ** (fx + fw), exact)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    for codes in (x, w):
        assert codes.min() >= low
        assert codes.max() <= high
    scaled = np.asarray(X, np.float64) * 2.0**fx
    assert np.array_equal(x, np.clip(np.floor(scaled + 0.5), low, high))


def test_halves_round_up_in_both_operands_as_by_ap_rnd():
    halves = jnp.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5])
    fwd = qfx.policy(8).fwd
    for operand in (fwd.lhs, fwd.rhs):
        codes, fraction = operand.encode(halves, {"integer_bits": jnp.float32(7)})
        assert (codes.tolist(), int(fraction)) == ([1, 2, 3, 0, -1, -2], 0)


@pytest.mark.parametrize("ones", [1, 2])
def test_products_with_few_ones_are_shifts_and_additions(ones):
    _, ((x, _), (w, _)) = layer(qfx.policy(8, ones))
    total = np.zeros((x.shape[0], w.shape[1]), np.int64)
    for k in range(x.shape[1]):
        for n in range(w.shape[1]):
            size = int(abs(w[k, n]))
            shifts = [s for s in range(8) if size >> s & 1]
            assert len(shifts) <= ones
            for shift in shifts:
                total[:, n] += (x[:, k] << shift) * int(np.sign(w[k, n]))
    assert np.array_equal(total, x @ w)


def test_the_next_layer_casts_as_hardware_shifts_and_wraps():
    """A truncating, wrapping cast of the exact sums is a shift and a mask."""
    out, ((x, fx), (w, fw)) = layer(qfx.policy(8))
    cast = LearnedPoint(bits=6, rounding=Floor(), wrap=True)
    codes, fraction = cast.encode(jnp.asarray(out), {"integer_bits": jnp.float32(1)})
    shift = fx + fw - int(fraction)
    assert shift > 0
    wrapped = ((x @ w >> shift) + 32) % 64 - 32
    assert np.array_equal(codes, wrapped)
    assert np.any(wrapped != np.clip(x @ w >> shift, -32, 31))


@pytest.mark.parametrize("power", [-3, 1, 4])
def test_the_point_moves_with_the_data(power):
    operand = LearnedPoint(bits=8, rounding=NearestUp())
    at = {"contract": (1,), "batch": ()}
    one, other = (operand.params(x, **at)["integer_bits"] for x in (X, X * 2.0**power))
    assert float(other - one) == power

    def error(n, x):
        return jnp.mean((operand.apply(x, {"integer_bits": n}, (), key=None, **at)[0] - x) ** 2)

    # From three bits too few the gradient leads back up, whatever the scale of the data.
    slope = jax.grad(error)(other - 3, X * 2.0**power)
    assert float(slope) < 0


def test_what_stands_between_products_is_cast_to_fixed_point_as_in_hardware():
    """A residual and its scaling in integers, half up, wide sums; gradients pass through."""
    to = Quantizer("fixed4.3", rounding=NearestUp())
    x = jnp.round(16 * X) / 16
    f = lambda x: (x * 0.375 + x) - 0.25  # noqa: E731
    quantized = qjax.quantize(f, "float32", elementwise=to)
    whole = np.asarray(x * 16, np.int64)  # Four bits after the point.
    half_up = lambda n, shift: (n + (1 << shift - 1)) >> shift  # noqa: E731
    clip = lambda n: np.clip(n, -127, 127)  # noqa: E731
    product = clip(half_up(whole * 3, 4))  # 0.375 = 3 / 8: seven bits, to three.
    total = clip(half_up(product * 2 + whole, 1))
    assert np.array_equal(quantized(x) * 8, clip(total - 2))
    assert np.array_equal(jax.grad(lambda x: jnp.sum(quantized(x)))(x), np.full(x.shape, 1.375))


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"`bits` as a whole number from 2 to 16"):
        LearnedPoint(bits=1)
    with pytest.raises(ValueError, match=r"leave one of `wrap` and `ones` out"):
        LearnedPoint(wrap=True, ones=2)
    with pytest.raises(ValueError, match=r"rounds without noise"):
        LearnedPoint(rounding=qjax.rounding.Stochastic())
