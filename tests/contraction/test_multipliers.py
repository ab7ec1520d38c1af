"""Approximate products: equal to their definition on integers, within the published errors."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import qjax
from qjax import Gemm, Policy
from qjax.contraction import FloatAccumulator, LMul, ShiftAdd
from qjax.formats import Float
from tests.draws import normal

DOT = (((1,), (0,)), ((), ()))


def reference(x, y, m, bias, top, offset):
    """The definition on the codes of a format: one integer addition of magnitudes."""
    sign, mask = 1 << (x.dtype.itemsize * 8 - 1), (1 << (x.dtype.itemsize * 8 - 1)) - 1
    a, b = (v.astype(np.int64) & mask for v in (x, y))
    size = a + b - (bias << m) + ((1 << m) >> offset)
    low = (a < (1 << m)) | (b < (1 << m)) | (size < (1 << m))
    size = np.where(low, 0, np.minimum(size, top))
    return size | ((x.astype(np.int64) ^ y.astype(np.int64)) & sign)


@pytest.mark.parametrize(
    ("dtype", "m", "bias", "offset"),
    [(ml_dtypes.float8_e4m3fn, 3, 7, 3), (ml_dtypes.float8_e5m2, 2, 15, 2)],
)
def test_every_pair_of_eight_bit_floats_is_one_integer_addition(dtype, m, bias, offset):
    codes = np.arange(256, dtype=np.uint8)
    values = codes.view(dtype).astype(np.float32)
    finite = np.isfinite(values)
    x, y = np.meshgrid(codes[finite], codes[finite], indexing="ij")
    top = int(codes[finite][codes[finite] < 128].max())
    expected = reference(x, y, m, bias, top, offset).astype(np.uint8).view(dtype)
    name = np.dtype(dtype).name.removeprefix("float8_")
    multiply = jax.jit(LMul(name))
    got = multiply(values[finite][:, None], values[finite][None])
    np.testing.assert_array_equal(got, expected.astype(np.float32))
    special = multiply(np.float32([np.nan, np.inf, np.inf]), np.float32([1, -2, 0]))
    np.testing.assert_array_equal(special, [np.nan, -np.inf, np.nan])


@pytest.mark.parametrize(("format", "bits", "offset"), [(Float(8, 23), 23, 4), ("bfloat16", 7, 4)])
def test_floats_of_eight_exponent_bits_are_one_integer_addition(format, bits, offset):
    rng = np.random.default_rng(0)
    x, y = (rng.integers(0, 1 << 32, 20000, dtype=np.uint64).astype(np.uint32) for _ in range(2))
    x, y = (v[np.isfinite(v.view(np.float32))][:19000] for v in (x, y))
    shift = 23 - bits
    short = [(v >> shift << shift) for v in (x, y)]
    # Aligned at 23 bits the same addition stands, with the same constant.
    expected = reference(*short, 23, 127, 0x7F7FFFFF >> shift << shift, offset)
    got = LMul(format)(x.view(np.float32), y.view(np.float32))
    np.testing.assert_array_equal(np.asarray(got).view(np.uint32), expected.astype(np.uint32))


def test_published_examples_and_the_choice_of_the_constant():
    x = jnp.array([1.0, 1.5, 1.25, -2.7])
    y = jnp.array([1.0, 1.5, 3.0, 0.3])
    np.testing.assert_array_equal(LMul()(x, y), np.float32([1.0625, 2.125, 3.625, -0.80625004]))
    assert [LMul(Float(8, m)).constant for m in (1, 2, 3, 4, 5, 7, 23)] == [1, 2, 3, 3, 4, 4, 4]
    assert LMul(Float(8, 4), 4).constant == 4


def test_relative_errors_are_those_of_full_mantissas():
    """Mean +.0041, mean magnitude .0265, at most .0729; without the constant -.0384, .0384, .1111
    (a logarithmic multiplier)."""
    rng = np.random.default_rng(1)
    x, y = (1 + rng.random(200_000, np.float32) for _ in range(2))
    for offset, mean, size, most in ((None, 0.0041, 0.0265, 0.0729), (23, -0.0384, 0.0384, 0.1111)):
        error = np.asarray(LMul(offset=offset)(x, y), np.float64) / (x.astype(np.float64) * y) - 1
        assert abs(error.mean() - mean) < 4e-4
        assert abs(np.abs(error).mean() - size) < 4e-4
        assert np.abs(error).max() < most + 1e-4


def test_laws_of_the_product():
    x = np.random.default_rng(2).normal(size=4096).astype(np.float32)
    y = np.random.default_rng(3).normal(size=4096).astype(np.float32)
    mul = jax.jit(LMul(Float(8, 6)))
    np.testing.assert_array_equal(mul(x, y), mul(y, x))
    np.testing.assert_array_equal(mul(-x, y), -mul(x, y))
    np.testing.assert_array_equal(mul(2 * x, y), 2 * mul(x, y))
    assert np.all(np.diff(mul(np.sort(np.abs(x)), np.float32(1.3))) >= 0)
    np.testing.assert_array_equal(mul(x, 0 * y), 0)


def test_a_product_of_arrays_is_the_loop_over_products():
    x = normal(0, (3, 21))
    y = normal(1, (21, 4))
    mul = LMul(Float(8, 4))

    @jax.jit
    def added(sums, a, b):
        term = mul(a[:, None], b[None])
        return jnp.stack([sums[0] + term, qjax.cast(sums[1] + term, "bfloat16")])

    sums = jnp.zeros((2, 3, 4))
    for a, b in zip(np.asarray(x).T, np.asarray(y), strict=True):
        sums = added(sums, a, b)
    for accumulator, total in ((None, sums[0]), (FloatAccumulator("bfloat16"), sums[1])):
        policy = Policy(Gemm(multiplier=mul, accumulator=accumulator))
        out, pull = jax.vjp(lambda x, y, p=policy: qjax.dot_general(x, y, DOT, policy=p), x, y)
        np.testing.assert_array_equal(out, total)
        exact = jax.vjp(lambda x, y: jax.lax.dot_general(x, y, DOT), x, y)[1]
        np.testing.assert_array_equal(pull(out)[0], exact(out)[0])


def test_shift_add_keeps_few_powers_of_two():
    x = jnp.arange(16.0)
    one, two = (np.asarray(ShiftAdd(k).powers(x)) for k in (1, 2))
    np.testing.assert_array_equal(one, [0, 1, 2, 4, 4, 4, 8, 8, 8, 8, 8, 8, 16, 16, 16, 16])
    np.testing.assert_array_equal(two, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 12, 12, 14, 15])
    np.testing.assert_array_equal(ShiftAdd(2).powers(-x), -two)
    w = jnp.asarray([[3.0], [7.0], [11.0]])
    policy = Policy(Gemm(multiplier=ShiftAdd(1)))
    out = qjax.dot_general(jnp.ones((2, 3)), w, DOT, policy=policy)
    np.testing.assert_array_equal(out, 4 + 8 + 8)
    flipped = qjax.dot_general(w.T, jnp.ones((3, 2)), DOT, policy=policy.flipped())
    np.testing.assert_array_equal(flipped, 4 + 8 + 8)


def test_settings_that_are_none_are_refused():
    with pytest.raises(ValueError, match="static bits"):
        LMul(Float(jnp.int32(4), 3))
    with pytest.raises(ValueError, match="offset"):
        LMul(offset=-1)
    with pytest.raises(ValueError, match="terms"):
        ShiftAdd(0)
    with pytest.raises(TypeError, match=r"`Gemm.multiplier`.*LMul"):
        Gemm(multiplier="lmul")  # type: ignore[arg-type]
