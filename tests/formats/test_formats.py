"""Laws that every format keeps, and the reading of names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qjax import casting, formats
from qjax.formats import Fixed, Float, Int, PowerOfTwo
from tests.families import FORMATS, label

NAMESPACE = {"Float": Float, "Int": Int, "Fixed": Fixed, "PowerOfTwo": PowerOfTwo}
SMALL = [f for f in FORMATS if f.width <= 16]


@pytest.mark.parametrize("format", FORMATS, ids=label)
def test_repr_and_name_round_trip(format):
    assert eval(repr(format), NAMESPACE) == format
    assert formats.parse(format.name) == format
    assert hash(formats.parse(format.name)) == hash(format)


@pytest.mark.parametrize("format", SMALL, ids=label)
def test_every_value_casts_to_itself_and_has_one_code(format):
    values = jnp.asarray(format.values(), jnp.float32)
    assert np.array_equal(np.asarray(values, np.float64), format.values())
    assert jnp.array_equal(casting.cast(values, format), values)
    assert jnp.array_equal(format.decode(format.encode(values)), values)
    assert float(values.max()) == format.max


@pytest.mark.parametrize("format", SMALL, ids=label)
def test_values_between_two_neighbours_round_to_the_nearer(format):
    values = format.values()
    low, high = values[:-1], values[1:]
    for part in (0.25, 0.75):
        between = (low + part * (high - low)).astype(np.float32)
        exact = between == low + part * (high - low)
        nearer = (low if part < 0.5 else high).astype(np.float32)
        got = np.asarray(casting.cast(jnp.asarray(between), format))
        assert exact.any()
        assert np.array_equal(got[exact], nearer[exact])


@pytest.mark.parametrize("format", SMALL, ids=label)
def test_cast_is_monotone_and_saturates(format):
    low = format.values().min()
    assert casting.cast(jnp.array([-np.inf, np.inf]), format).tolist() == [low, format.max]
    grid = np.linspace(low, format.max, 4097).astype(np.float32)
    assert np.all(np.diff(np.asarray(casting.cast(jnp.asarray(grid), format))) >= 0)


@pytest.mark.parametrize("format", FORMATS, ids=label)
def test_traced_bits_give_the_same_facts(format):
    traced = jax.jit(lambda f: (f.max + 0.0, f.max_exponent + 0))(format)
    assert float(traced[0]) == format.max
    assert int(traced[1]) == format.max_exponent


def test_codes_of_traced_bits_are_refused():
    with pytest.raises(TypeError, match="bits are traced"):
        jax.jit(lambda f, x: f.encode(x))(formats.E4M3FN, jnp.ones(3))


@pytest.mark.parametrize(
    ("name", "near"), [("e4m3fm", "e4m3fn"), ("bfloat61", "bfloat16"), ("unt8", "uint8")]
)
def test_misspelt_names_list_near_names(name, near):
    with pytest.raises(ValueError, match=near):
        formats.parse(name)


def test_bare_e4m3_is_refused_with_both_readings():
    with pytest.raises(ValueError, match=r"448.*240"):
        formats.parse("e4m3")
    assert formats.parse("float8_e4m3") == formats.E4M3
    assert formats.parse("float8_e4m3fn") == formats.E4M3FN


@pytest.mark.parametrize(
    "build",
    [
        lambda: Float(9, 3),
        lambda: Float(4, 24),
        lambda: Float(4, 3, family="ocp"),
        lambda: Int(1),
        lambda: Int(25),
        lambda: Fixed(12, 12),
        lambda: PowerOfTwo(9),
    ],
)
def test_impossible_widths_are_refused(build):
    with pytest.raises(ValueError, match=r"asked|takes"):
        build()
