"""Types that name the axis of their tiles (`dD`): who follows it, who refuses, who carries it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import Gemm, Policy, Quantizer, qtensor, qtypes
from qjax.tiling import Tile, resolve
from tests.draws import normal

X = normal(0, (64, 96))
W = normal(1, (96, 32))
DOT = (((1,), (0,)), ((), ()))


@pytest.mark.parametrize(("name", "axis"), [("d0", 0), ("d-2", 0), ("d1", 1), ("d-1", -1)])
def test_casts_run_along_the_axis_of_the_type(name, axis):
    plain, fixed = "e2m1fnuz:e8m0_t32", f"e2m1fnuz:e8m0_t32{name}"
    expected = qjax.cast(X, plain, axis=axis)
    assert qtypes.parse(fixed).bits_per_element == qtypes.parse(plain).bits_per_element
    for found in (
        qjax.cast(X, fixed),
        qjax.cast(X, fixed, axis=axis),
        qjax.cast(X, fixed, axis=axis % 2 - 2),
        qjax.encode(X, fixed).decode(),
        jax.jit(Quantizer(fixed).cast)(X),
        jax.vmap(lambda x: qjax.cast(x, fixed))(X[None])[0],
        jax.jit(lambda q, x: q.cast(x))(Quantizer(fixed), X),
    ):
        np.testing.assert_array_equal(found, expected)


def test_another_axis_is_refused_with_both_named():
    with pytest.raises(ValueError, match=r"fixes its tiles along axis 0.*asked for along axis 1"):
        qjax.cast(X, "e2m1fnuz:e8m0_t32d0", axis=1)
    with pytest.raises(ValueError, match=r"along axis -1.*asked for along axis 0 of an array of 2"):
        qjax.encode(X, "e2m1fnuz:e8m0_t32d-1", axis=0)
    with pytest.raises(ValueError, match="`axis` names axis 2, but the array has 2"):
        qjax.cast(X, "e2m1fnuz:e8m0_t32d2", axis=0)
    with pytest.raises(ValueError, match="names axis 2, but the array has 2"):
        qjax.cast(X, "e2m1fnuz:e8m0_t32d2")
    with pytest.raises(ValueError, match=r"axis='0'.*number of an axis"):
        Tile(32, 1, axis="0")  # type: ignore[arg-type]


def test_contractions_follow_an_axis_that_they_contract_and_refuse_others():
    lhs, rhs = "e2m1fnuz:e8m0_t32d-1", "e2m1fnuz:e8m0_t32d0"
    plain = Policy(Gemm("e2m1fnuz:e8m0_t32", "e2m1fnuz:e8m0_t32"))
    found = qjax.dot_general(X, W, DOT, policy=Policy(Gemm(lhs, rhs)))
    np.testing.assert_array_equal(found, qjax.dot_general(X, W, DOT, policy=plain))
    with pytest.raises(ValueError, match=r"along axis -1.*asked for along axis 0"):
        qjax.dot_general(X, W, DOT, policy=Policy(Gemm(lhs, lhs)))
    # The gradients contract other axes of the same operands.
    policy = Policy(Gemm(lhs, rhs), Gemm(None, rhs))
    with pytest.raises(ValueError, match=r"along axis 0.*asked for along axis 1"):
        jax.grad(lambda x: qjax.dot_general(x, W, DOT, policy=policy).sum())(X)


def test_two_tiles_may_name_both_axes():
    x = normal(2, (4, 32, 48))
    found = qjax.cast(x, "int8:float32_t16d1_t8d2")
    tiles = x.reshape(4, 2, 16, 6, 8)
    scale = jnp.abs(tiles).max(axis=(2, 4), keepdims=True) / 127
    expected = (jnp.round(tiles / scale) * scale).reshape(x.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    # A whole axis across: of that axis alone.
    layout = resolve(x.shape, qtypes.parse("int8:float32_t16d1_t0d2").tile)
    assert layout.tiles == (1, 16, 48)
    assert resolve(x.shape, qtypes.parse("int8:float32_t16d1_t0").tile).tiles == (4, 16, 48)
    with pytest.raises(ValueError, match=r"across axis -2.*across axes 0, 2 here"):
        qjax.cast(x, "int8:float32_t16d1_t8d-2")


@pytest.mark.parametrize("name", ["e2m1fnuz:e8m0_t32d0", "int8:e8m0_t16s2o1d-2", "int8:e8m0_t0d0"])
def test_tensors_and_their_files_carry_the_axis(name, tmp_path):
    pytest.importorskip("safetensors")
    stored = qjax.encode(X, name)
    assert stored.qtype.name == name
    qtensor.save(tmp_path / "x.safetensors", {"w": stored})
    back = qtensor.load(tmp_path / "x.safetensors")["w"]
    assert back.qtype == stored.qtype
    np.testing.assert_array_equal(back.decode(), qjax.cast(X, name))


def test_the_axis_of_a_tensor_moves_with_it():
    stored = qjax.encode(X, "e2m1fnuz:e8m0_t32d0")
    assert stored.T.qtype.tile == Tile(32, 1, axis=1)
    again = qjax.encode(stored.T.decode(), stored.T.qtype)
    np.testing.assert_array_equal(again.decode(), stored.T.decode())
    last = qjax.encode(X, "e2m1fnuz:e8m0_t32d-2")
    assert last.T.qtype.tile.axis == -1
    assert stored.reshape(64, 2, 48).qtype.tile.axis == 0
    assert last.reshape(64, 2, 48).qtype.tile.axis == -3
    assert stored[:, 3].qtype.tile.axis == 0
    assert stored[32:].qtype == stored.qtype
    # An axis that is gone, or is two now, is named no more.
    assert stored.reshape(2, 32, 96).qtype.tile == Tile(32, 1)
    assert stored[0].qtype.tile == Tile(32, 1)
    for moved in (stored.T, stored.reshape(64, 2, 48), stored.reshape(2, 32, 96), stored[:, 3]):
        assert qtypes.parse(moved.qtype.name) == moved.qtype
