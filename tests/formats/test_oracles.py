"""Formats against ml_dtypes, exhaustively: every code, every bfloat16, every float16."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from qjax import casting, formats
from tests.families import ORACLE_FLOATS, label

WORDS = np.arange(1 << 16, dtype=np.uint16)
INPUTS = {"bfloat16": WORDS.view(ml_dtypes.bfloat16), "float16": WORDS.view(np.float16)}


def same(ours, theirs) -> bool:
    """Whether two arrays have the same float32 bits, any NaN equal to any."""
    ours, theirs = (np.asarray(a).astype(np.float32) for a in (ours, theirs))
    equal = ours.view(np.uint32) == theirs.view(np.uint32)
    return bool(np.all(equal | (np.isnan(ours) & np.isnan(theirs))))


def oracle(x: np.ndarray, format: formats.Float) -> np.ndarray:
    """ml_dtypes' conversion with saturation and NaN put before it."""
    values = x.astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        clipped = np.clip(values, -format.max, format.max)
        rounded = clipped.astype(format.dtype).astype(np.float32)
    return np.where(np.isnan(values), np.float32(np.nan), rounded)


@pytest.mark.parametrize("source", INPUTS)
@pytest.mark.parametrize("format", ORACLE_FLOATS, ids=label)
def test_cast_equals_ml_dtypes_on_every_16_bit_input(format, source):
    x = INPUTS[source]
    expected = oracle(x, format)
    device = jnp.asarray(x)
    eager = casting.cast(device.astype(jnp.float32), format)
    assert same(eager, expected)
    assert same(jax.jit(lambda x: casting.cast(x.astype(jnp.float32), format))(device), expected)
    traced = jax.jit(lambda x, format: casting.cast(x.astype(jnp.float32), format))
    assert same(traced(device, format), expected)


@pytest.mark.parametrize("source", INPUTS)
def test_cast_keeps_a_narrow_dtype_where_it_holds_the_values(source):
    x = jnp.asarray(INPUTS[source])
    result = casting.cast(x, formats.E4M3FN)
    assert result.dtype == x.dtype
    assert same(result, oracle(INPUTS[source], formats.E4M3FN))


@pytest.mark.parametrize("family", ["ieee", "fn", "finite", "fnuz"])
def test_cast_over_a_stack_of_formats_equals_each_cast(family):
    members = [f for f in ORACLE_FLOATS if f.family == family]
    stack = jax.tree.map(lambda *bits: jnp.array(bits), *members)
    x = jnp.asarray(INPUTS["bfloat16"]).astype(jnp.float32)
    rows = jax.vmap(casting.cast, in_axes=(None, 0))(x, stack)
    for row, format in zip(rows, members):
        assert same(row, oracle(INPUTS["bfloat16"], format))


@pytest.mark.parametrize("format", ORACLE_FLOATS, ids=label)
def test_every_code_decodes_and_encodes_as_in_ml_dtypes(format):
    codes = np.arange(1 << format.width).astype(format.code_dtype)
    expected = codes.view(format.dtype).astype(np.float32)
    decoded = format.decode(jnp.asarray(codes))
    assert same(decoded, expected)
    back = np.asarray(format.encode(decoded))
    assert np.all((back == codes) | np.isnan(expected))
    assert np.all(np.isnan(np.asarray(format.decode(jnp.asarray(back)))) == np.isnan(expected))


@pytest.mark.parametrize("precision", range(1, 8))
def test_p3109_equals_gfloat_in_every_code_and_every_16_bit_input(precision):
    gfloat = pytest.importorskip("gfloat")
    info = pytest.importorskip("gfloat.formats").format_info_p3109(8, precision)
    format = formats.binary8p(precision)
    codes = np.arange(256, dtype=np.uint8)
    expected = np.array([gfloat.decode_float(info, int(code)).fval for code in codes])
    assert same(format.decode(jnp.asarray(codes)), expected)
    assert np.array_equal(format.encode(jnp.asarray(expected, jnp.float32)), codes)
    for words in INPUTS.values():
        x = words.astype(np.float32)
        with np.errstate(invalid="ignore", over="ignore"):
            clipped = np.clip(x.astype(np.float64), -format.max, format.max)
            rounded = gfloat.round_ndarray(info, clipped, sat=True)
        # It has no -0.
        assert same(casting.cast(jnp.asarray(x), format), np.where(np.isnan(x), x, rounded + 0.0))


def test_every_e8m0_code_decodes_as_in_ml_dtypes():
    codes = np.arange(256, dtype=np.uint8)
    expected = codes.view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    assert same(formats.E8M0FNU.decode(jnp.asarray(codes)), expected)
    assert np.all(np.asarray(formats.E8M0FNU.encode(jnp.asarray(expected))) == codes)
