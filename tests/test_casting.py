"""The kernel at its edges: NaN, infinities, signed zeros, subnormals, float64, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qjax import casting, formats
from qjax.rounding import Stochastic


def test_nan_stays_nan_and_infinity_saturates():
    x = jnp.array([jnp.nan, jnp.inf, -jnp.inf])
    for format in (formats.E4M3FN, formats.E2M1FN, formats.INT8):
        result = casting.cast(x, format)
        assert np.array_equal(result, [np.nan, format.max, -format.max], equal_nan=True)


def test_signed_zero_is_kept_where_the_format_has_it():
    x = jnp.array([0.0, -0.0, -1e-30])
    assert np.array_equal(np.signbit(casting.cast(x, formats.E4M3FN)), [False, True, True])
    assert not np.signbit(casting.cast(x, formats.E4M3FNUZ)).any()


def test_float32_subnormals_are_rounded_although_the_processor_may_flush_them():
    bits = np.arange(1, 1 << 23, 4099, dtype=np.int32)
    x = bits.view(np.float32)
    expected = x.astype(formats.BFLOAT16.dtype).astype(np.float32)
    result = np.asarray(casting.cast(jnp.asarray(x), formats.BFLOAT16))
    assert np.array_equal(result.view(np.int32), expected.view(np.int32))
    same = np.asarray(casting.cast(jnp.asarray(x), formats.FLOAT32))
    assert np.array_equal(same.view(np.int32), bits)


def test_float64_is_rounded_once():
    with jax.enable_x64(True):
        # Just above the tie of 1 and 1.125: through float32 it would become the tie, then 1.
        x = np.array([1.0625 + 2.0**-40, 1.0625 - 2.0**-40, 1.0625, -1.0625 - 2.0**-40, 1e300, 0.0])
        result = casting.cast(jnp.asarray(x), formats.E4M3FN)
        assert result.dtype == jnp.float64
        assert np.array_equal(result, [1.125, 1.0, 1.0, -1.125, 448.0, 0.0])
        assert np.array_equal(casting.cast(jnp.array([np.nan, 1e-320]), formats.E5M2)[1:], [0.0])


def test_integer_arrays_are_refused():
    with pytest.raises(TypeError, match=r"int32.*astype"):
        casting.cast(jnp.arange(3), formats.E4M3FN)


def test_stochastic_rounding_needs_a_key():
    with pytest.raises(ValueError, match="key"):
        casting.cast(jnp.ones(3), formats.E4M3FN, rounding=Stochastic())
    with pytest.raises(TypeError, match=r"jax\.random\.key"):
        casting.cast(jnp.ones(3), formats.E4M3FN, rounding=Stochastic(), key=0)


def test_a_hundred_formats_given_as_data_share_one_compilation():
    traces = []

    @jax.jit
    def cast(x, format):
        traces.append(format)
        return casting.cast(x, format)

    x = jnp.linspace(-3, 3, 101)
    results = set()
    for exponent_bits in range(1, 6):
        for mantissa_bits in range(1, 11):
            for bias in (3, 7):
                format = formats.Float(exponent_bits, mantissa_bits, family="finite", bias=bias)
                results.add(np.asarray(cast(x, format)).tobytes())
    assert len(traces) == 1
    assert len(results) > 50
