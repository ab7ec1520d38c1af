"""N of M: which elements are kept, against NumPy; laws; what is stored; gradients."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import Gemm, Policy, Quantizer, calibration, gradients, qtensor, qtypes, rounding
from qjax.contraction import operands
from qjax.contraction.variables import Values
from tests.draws import normal

DOT = (((1,), (0,)), ((), ()))
X = normal(0, (6, 96))
NAMES = [
    "e2m1fnuz:e8m0_t32n2m4",
    "int8:float32_t0n1m4",
    "uint4:float32_uint4_t32n2m4",
    "cb41fi_e2m2fnuz:e8m0_t32s8n2m8",
    "bitmod3_block128",
    "e2m1fn:multi_float32_e4m3fn_t16n3m4",
    "int8:e8m0_t16s2o1n1m2",
    "int8:float32_t16_t16n2m4",
]
SPARSE = {
    name: dataclasses.replace(type, sparsity=type.sparsity or qtypes.Sparsity(2, 4))
    for name, type in ((name, qtypes.parse(name)) for name in NAMES)
}


def oracle(x, kept, group):
    """The largest `kept` of every `group` along the last axis, the first of equals."""
    result = np.zeros_like(x)
    for row in np.ndindex(x.shape[:-1]):
        for start in range(0, x.shape[-1], group):
            part = x[row][start : start + group]
            order = sorted(range(len(part)), key=lambda i: (-abs(part[i]), i))
            for i in order[:kept]:
                result[row][start + i] = part[i]
    return result


@pytest.mark.parametrize(
    ("kept", "group"), [(n, m) for m in (2, 3, 4, 5) for n in range(1, m)], ids=str
)
def test_every_small_group_keeps_what_numpy_keeps(kept, group):
    # All groups of these values, whose magnitudes tie in every possible way.
    values = np.float32([-2, -1, 0, 1, 2] if group < 5 else [-1, 0, 1, 2])
    x = np.array(list(itertools.product(values, repeat=group)), np.float32)
    type = qtypes.QType("float32", sparsity=qtypes.Sparsity(kept, group))
    np.testing.assert_array_equal(qjax.cast(jnp.asarray(x), type), oracle(x, kept, group))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("length", [1, 3, 16, 18])
def test_short_groups_and_all_dtypes_keep_what_numpy_keeps(length, dtype):
    x = normal(length, (5, length)).astype(dtype)
    type = qtypes.QType("float32", sparsity=qtypes.Sparsity(2, 4))
    found = np.asarray(qjax.cast(x, type), np.float32)
    np.testing.assert_array_equal(found, oracle(np.asarray(x, np.float32), 2, 4))


def test_magnitudes_below_the_smallest_normal_are_compared_too():
    x = jnp.asarray(np.int32([3, 5, 4, 6]).view(np.float32))
    mask = Quantizer("int8:float32_t4n2m4").kept(x)
    assert mask.tolist() == [False, True, False, True]


@pytest.mark.parametrize(("kept", "group"), [(2, 4), (3, 8), (9, 20)])
@pytest.mark.parametrize("axis", [0, 1])
def test_nan_infinities_and_equals_are_ranked_by_their_bits_along_any_axis(kept, group, axis):
    values = np.float32([0, -0.0, 1, -1, 2, np.inf, -np.inf, np.nan, -np.nan, 1e-40])
    x = np.random.default_rng(group).choice(values, (3 * group + 2, 3 * group + 2))
    type = qtypes.QType("float32", sparsity=qtypes.Sparsity(kept, group))
    found = np.moveaxis(np.asarray(Quantizer(type).kept(jnp.asarray(x), contract=(axis,))), axis, 1)
    sizes = np.moveaxis(x.view(np.int32) & 0x7FFFFFFF, axis, 1).astype(np.int64)
    for start in range(0, sizes.shape[1], group):
        part = sizes[:, start : start + group]
        order = np.argsort(-part, axis=1, kind="stable")[:, :kept]
        expected = np.zeros(part.shape, bool)
        np.put_along_axis(expected, order, True, axis=1)
        np.testing.assert_array_equal(found[:, start : start + group], expected)


@pytest.mark.parametrize("split", [("d", None), (None, "d")])
def test_what_an_explicit_mesh_splits_is_grouped_too(split):
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Explicit,))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*split))
    quantizer = Quantizer("int8:float32_t0n2m4")
    with jax.set_mesh(mesh):
        found = quantizer.kept(jax.device_put(X, place))
    np.testing.assert_array_equal(found, quantizer.kept(X))


@pytest.mark.parametrize("qtype", SPARSE.values(), ids=NAMES)
def test_what_is_kept_is_what_the_dense_type_makes_of_it(qtype):
    """Scales are those of the whole tile, so that nothing else changes, and signs stay."""
    quantizer = Quantizer(qtype)
    dense = dataclasses.replace(qtype, sparsity=None)
    mask = np.asarray(quantizer.kept(X))
    axis = 0 if qtype.sparsity.across else 1
    x = np.moveaxis(np.asarray(X), axis, -1)
    expected = oracle(x, qtype.sparsity.kept, qtype.sparsity.group) != 0
    np.testing.assert_array_equal(np.moveaxis(mask, axis, -1), expected)
    found = np.asarray(quantizer.cast(X))
    if not isinstance(qtype.format, qjax.formats.Choice):
        np.testing.assert_array_equal(found, np.where(mask, Quantizer(dense).cast(X), 0))
    assert not np.signbit(found[~mask]).any()
    assert (found[~mask] == 0).all()
    assert (np.sign(found) == np.sign(X))[found != 0].all()


def test_a_calibration_sees_the_whole_tile():
    mean = calibration.Moments(second=0.0, first=2.0)
    sparse, dense = (
        Quantizer(f"int4:float32_t32{part}", calibration=mean) for part in ("n1m4", "")
    )
    expected = np.where(sparse.kept(X), dense.cast(X), 0)
    np.testing.assert_array_equal(sparse.cast(X), expected)


@pytest.mark.parametrize("qtype", SPARSE.values(), ids=NAMES)
def test_casts_are_what_is_stored_however_they_run(qtype):
    quantizer = Quantizer(qtype)
    cast = quantizer.cast(X)
    stored = quantizer.encode(X)
    np.testing.assert_array_equal(stored.decode(), cast)
    np.testing.assert_array_equal(jax.jit(quantizer.cast)(X), cast)
    stack = jnp.stack([X, -2 * X])
    np.testing.assert_array_equal(jax.vmap(quantizer.cast)(stack)[0], cast)
    _, scanned = jax.lax.scan(lambda carry, x: (carry, quantizer.cast(x)), 0, stack)
    np.testing.assert_array_equal(scanned, jax.vmap(quantizer.cast)(stack))


@pytest.mark.parametrize("name", ["e2m1fnuz:e8m0_t32n2m4", "int8:e8m0_t16s2o1n1m2"])
def test_casts_are_odd_idempotent_and_follow_powers_of_two(name):
    once = qjax.cast(X, name)
    np.testing.assert_array_equal(qjax.cast(-X, name), -once)
    np.testing.assert_array_equal(qjax.cast(once, name), once)
    np.testing.assert_array_equal(qjax.cast(X * 2.0**9, name), once * 2.0**9)
    assert int((once != 0).sum()) <= X.size // 2


def test_noise_never_fills_what_is_not_kept():
    quantizer = Quantizer("int4:float32_t32n2m4", rounding=rounding.Stochastic())
    found = quantizer.cast(X, key=jax.random.key(1))
    assert (np.asarray(found)[~np.asarray(quantizer.kept(X))] == 0).all()


def test_bits_count_the_kept_and_a_bit_for_every_element():
    assert qtypes.parse("e2m1fnuz:e8m0_t32n2m4").bits_per_element == 4 * 2 / 4 + 1 + 8 / 32
    assert qtypes.parse("uint8:float32_uint8_t16n3m8").bits_per_element == 3 + 1 + 40 / 16
    stored = qjax.encode(X, "e2m1fnuz:e8m0_t32n2m4")
    assert stored.bits_per_element == 3.25
    assert stored.nbytes == 3.25 * X.size / 8


@pytest.mark.parametrize("name", [NAMES[n] for n in (0, 2, 4, 7)])
def test_files_hold_the_kept_alone_and_give_back_every_code(name, tmp_path):
    files, qtype = pytest.importorskip("safetensors.numpy"), SPARSE[name]
    x = X.at[1, 4:9].set(0).at[2, 3].set(-1e-9)
    one = Quantizer(qtype).encode(x)
    several = jax.vmap(Quantizer(qtype).encode)(jnp.stack([x, 3 * x[::-1]]))
    path = tmp_path / "x.safetensors"
    qtensor.save(path, {"one": one, "several": several})
    back = qtensor.load(path)
    arrays = files.load_file(str(path))
    for name, tensor in (("one", one), ("several", several)):
        assert jax.tree.structure(back[name]) == jax.tree.structure(tensor)
        for found, given in zip(jax.tree.leaves(back[name]), jax.tree.leaves(tensor)):
            np.testing.assert_array_equal(found, given)
        assert sum(a.size for k, a in arrays.items() if k.startswith(name)) == tensor.nbytes
        assert arrays[f"{name}/kept"].size == tensor.qvalue.size // 8


def test_a_bad_element_makes_its_tile_nan_and_files_keep_it_so(tmp_path):
    pytest.importorskip("safetensors")
    x = X.at[0, 5].set(jnp.nan)
    for name in ("e4m3fn:e8m0_t32n2m4", "e2m1fnuz:e8m0_t32n2m4"):
        stored = qjax.encode(x, name)
        bad = np.isnan(stored.decode())
        assert bad[0, :32].all()
        assert bad.sum() == 32
        np.testing.assert_array_equal(np.isnan(qjax.cast(x, name)), bad)
        qtensor.save(tmp_path / "x", {"w": stored})
        np.testing.assert_array_equal(np.isnan(qtensor.load(tmp_path / "x")["w"].decode()), bad)


def test_a_tensor_cut_within_a_group_is_not_saved(tmp_path):
    pytest.importorskip("safetensors")
    whole = qjax.encode(jnp.float32([[0, 0, 1, 2, 3, 4, 0, 0]]), "int8:float32_t0n2m4")
    qtensor.save(tmp_path / "x", {"w": whole.T, "part": whole[:, 4:]})
    with pytest.raises(ValueError, match="keeps 2 of every 4 elements, but has a group with more"):
        qtensor.save(tmp_path / "x", {"w": whole[:, 2:6]})


def test_gradients_pass_through_what_is_kept_alone():
    w = normal(2, (96, 8))
    sparse = Quantizer("int8:float32_t32n2m4")
    g = normal(3, (6, 8))
    mask = sparse.kept(w, contract=(0,))

    def both(fwd, variables=None, **options):
        where = {"policy": Policy(Gemm(None, fwd), **options), "variables": variables}
        return jax.vjp(lambda x, w: qjax.dot_general(x, w, DOT, **where), X, w)[1](g)

    for options in ({}, {"clip": True}, {"residuals": "codes"}):
        dx, dw = both(sparse, **options)
        np.testing.assert_allclose(dw, np.where(mask, X.T @ g, 0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dx, g @ sparse.cast(w, contract=(0,)).T, rtol=1e-5, atol=1e-5)
    _, dw = both(operands.Estimated(sparse, estimator=gradients.through), Values())
    np.testing.assert_allclose(dw, np.where(mask, X.T @ g, 0), rtol=1e-5, atol=1e-5)


def test_several_contracted_axes_are_grouped_flattened():
    x = normal(4, (3, 5, 7))
    found = Quantizer("int8:float32_t0n2m4").kept(x, contract=(1, 2))
    expected = oracle(np.asarray(x).reshape(3, 35), 2, 4).reshape(3, 5, 7) != 0
    np.testing.assert_array_equal(found, expected)
    stored = Quantizer("int8:float32_t0n2m4").encode(x, contract=(1, 2))
    assert stored.nbytes == 3 * math.ceil(35 / 4) * 2 + math.ceil(105 / 8) + 3 * 4
