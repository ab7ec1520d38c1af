"""Narrow sums equal the explicit loop over products, for every operation and leg."""

import itertools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import qjax
from qjax import Gemm, Policy, Quantizer
from qjax.contraction import FloatAccumulator, IntegerAccumulator
from tests.draws import normal, whole

DOT = (((1,), (0,)), ((), ()))
NARROW = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


def dot(policy, x, y):
    return jax.jit(lambda x, y: qjax.dot_general(x, y, DOT, policy=policy))(x, y)


def loop(x, y, length, add, start):
    """The sum over k of x[m, k] y[k, n], product by product, chain by chain."""
    total = np.zeros((x.shape[0], y.shape[1]), np.float32)
    for first in range(0, x.shape[1], length):
        chain = np.full(total.shape, start)
        for k in range(first, min(first + length, x.shape[1])):
            chain = add(chain, x[:, k, None] * y[None, k])
        total = total + chain.astype(np.float32)
    return total


@pytest.mark.parametrize("length", [None, 1, 5, 16])
@pytest.mark.parametrize("name", NARROW)
def test_a_narrow_float_sum_is_rounded_after_every_addition(name, length):
    x, y = normal(0, (3, 37)), normal(1, (37, 4))
    policy = Policy(Gemm(accumulator=FloatAccumulator(name, length)))

    def add(total, product):
        return (total + product).astype(np.float32).astype(NARROW[name]).astype(np.float32)

    expected = loop(np.asarray(x), np.asarray(y), length or 37, add, np.float32(0))
    np.testing.assert_array_equal(dot(policy, x, y), expected)
    assert not np.array_equal(expected, x @ y)


def saturated(bits):
    top = 2 ** (bits - 1) - 1
    return lambda total, product: np.clip(total + product, -top, top)


def wrapped(bits):
    half = 2 ** (bits - 1)
    return lambda total, product: (total + product + half) % (2 * half) - half


@pytest.mark.parametrize("length", [None, 4, 16])
@pytest.mark.parametrize("overflow", ["saturate", "wrap"])
@pytest.mark.parametrize("bits", [6, 9, 16])
def test_an_integer_sum_saturates_or_wraps_at_every_addition(bits, overflow, length):
    x, y = 9 * normal(0, (3, 37)), 9 * normal(1, (37, 4))
    gemm = Gemm("int5", "int5", accumulator=IntegerAccumulator(bits, length, overflow))
    codes = [np.clip(np.rint(np.asarray(a)), -15, 15).astype(np.int64) for a in (x, y)]
    add = {"saturate": saturated, "wrap": wrapped}[overflow](bits)
    expected = loop(*codes, length or 37, add, np.int64(0))
    np.testing.assert_array_equal(dot(Policy(gemm), x, y), expected)
    if bits == 6:
        assert not np.array_equal(expected, codes[0] @ codes[1])


def test_a_sum_may_overflow_only_when_its_chain_ends():
    x, y = jnp.array([[7.0, 7.0, -7.0]]), jnp.array([[7.0], [7.0], [7.0]])
    for at_end, expected in ((False, 63 - 49), (True, 49)):
        accumulator = IntegerAccumulator(7, at_end=at_end)
        policy = Policy(Gemm("int4", "int4", accumulator=accumulator))
        assert dot(policy, x, y) == expected


@pytest.mark.parametrize("overflow", ["saturate", "wrap"])
def test_sums_of_32_bits_overflow_as_int64_says(overflow):
    """Sixteen-bit codes overflow 32 bits after two products."""
    values = np.array([[32767.0] * 3, [-32767.0, 32767.0, 1.0], [-32767.0] * 3], np.float32)
    gemm = Gemm("int16", "int16", accumulator=IntegerAccumulator(32, overflow=overflow))
    add = {"saturate": saturated, "wrap": wrapped}[overflow](32)
    codes = values.astype(np.int64)
    expected = loop(codes, codes.T, 3, add, np.int64(0))
    np.testing.assert_array_equal(dot(Policy(gemm), values, values.T), expected)


def test_scales_multiply_the_sum_and_chains_are_added_in_float32():
    """Rows and columns have scales of their own; the codes alone meet the accumulator."""
    x, y = normal(0, (3, 37)), normal(1, (37, 4))
    int8 = Quantizer("int8_channel")
    (a, s), (b, t) = int8.units(x), int8.units(y, contract=(0,))
    for length, bits, overflow in itertools.product((None, 8), (12, 32), ("saturate", "wrap")):
        gemm = Gemm(int8, int8, accumulator=IntegerAccumulator(bits, length, overflow))
        add = {"saturate": saturated, "wrap": wrapped}[overflow](bits)
        codes = [np.asarray(c).astype(np.int64) for c in (a, b)]
        total = loop(*codes, length or 37, add, np.int64(0))
        np.testing.assert_array_equal(dot(Policy(gemm), x, y), (total * s) * t)


def conv(**settings):
    def function(policy):
        return lambda x, y: qjax.conv_general_dilated(
            x,
            y,
            settings.get("strides", (2, 1)),
            ((1, 2), (0, 1)),
            dimension_numbers=settings.get("numbers", ("NHWC", "HWIO", "NHWC")),
            lhs_dilation=settings.get("spacing", (1, 1)),
            rhs_dilation=settings.get("dilation", (1, 1)),
            feature_group_count=settings.get("groups", 1),
            batch_group_count=settings.get("images", 1),
            policy=policy,
        )

    return function


def ragged(policy):
    return lambda x, y: qjax.ragged_dot(x, y, jnp.array([2, 0, 4], jnp.int32), policy=policy)


OPS = {
    "batched": (
        lambda p: lambda x, y: qjax.einsum("abij,bjik->bak", x, y, policy=p),
        (3, 2, 4, 6),
        (2, 6, 4, 5),
    ),
    "summed within": (lambda p: lambda x, y: qjax.einsum("ij,k->ik", x, y, policy=p), (3, 4), (5,)),
    "convolution": (conv(), (4, 5, 6, 8), (3, 2, 8, 6)),
    "spaced": (conv(spacing=(1, 2), dilation=(2, 1)), (2, 5, 4, 3), (2, 3, 3, 2)),
    "grouped": (conv(groups=2), (4, 5, 6, 8), (3, 2, 4, 6)),
    "groups of images": (
        conv(images=2, numbers=("NCHW", "OIHW", "CNHW")),
        (4, 8, 5, 6),
        (6, 8, 3, 2),
    ),
    "experts": (ragged, (7, 8), (3, 8, 5)),
    "empty": (lambda p: lambda x, y: qjax.dot_general(x, y, DOT, policy=p), (5, 0), (0, 6)),
}


@pytest.mark.parametrize("op", OPS)
def test_a_wide_sum_of_whole_numbers_is_the_plain_product_on_every_leg(op):
    """Small whole numbers are exact in every order, so that all ways must agree to the bit."""
    make, a, b = OPS[op]
    x, y = whole(0, 7, a), whole(1, 7, b)
    # One power of two for each row or column loses nothing of these numbers.
    channel = Quantizer(qjax.QType("int4", qjax.Tile(None, 1), qjax.QType("e8m0")))
    codes = Gemm(channel, "int4", accumulator=IntegerAccumulator(16, 5, "wrap"))
    values = Gemm(accumulator=FloatAccumulator("float32", 3))

    def legs(policy):
        out, pull = jax.vjp(make(policy), x, y)
        weight = (jnp.arange(out.size, dtype=out.dtype) % 15 - 7).reshape(out.shape)
        return (out, *pull(weight))

    policy = Policy(codes, codes, values)
    if op == "summed within":
        with pytest.raises(ValueError, match="scales differ along it"):
            legs(policy)
        policy = Policy(values, values, values)
    for got, want in zip(*jax.jit(lambda: (legs(policy), legs(Policy())))(), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    "gemm",
    [
        Gemm(accumulator=FloatAccumulator("bfloat16", 16)),
        Gemm("int5", "int5", accumulator=IntegerAccumulator(9, 16, at_end=True)),
    ],
)
def test_rows_are_summed_by_devices_as_by_one(gemm):
    x, y = 9 * normal(0, (4, 37)), 9 * normal(1, (37, 4))
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    rows, whole = jax.P("d"), jax.P()
    apart = jax.shard_map(
        lambda x, y: dot(Policy(gemm), x, y), mesh=mesh, in_specs=(rows, whole), out_specs=rows
    )
    np.testing.assert_array_equal(apart(x, y), dot(Policy(gemm), x, y))


def test_safe_lengths_cannot_overflow():
    eight, sixteen = qjax.formats.Int(8), qjax.formats.Int(16)
    assert IntegerAccumulator(32).safe_length(sixteen, sixteen) == 2
    assert IntegerAccumulator(16).safe_length(eight, eight) == 32767 // 127**2
    assert IntegerAccumulator(8).safe_length(qjax.formats.Int(4), qjax.formats.Int(4)) == 2


@pytest.mark.parametrize("operand", [None, "mxint8", "e4m3fn"])
def test_operands_without_integer_codes_are_refused(operand):
    gemm = Gemm("int8_channel", operand, accumulator=IntegerAccumulator(16))
    with pytest.raises(ValueError, match=r"`IntegerAccumulator`.*Int.*int8_channel"):
        dot(Policy(gemm), jnp.ones((2, 3)), jnp.ones((3, 2)))
