"""Quantized tensors: what is done to them equals what is done to their values."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import formats, qtensor, qtypes
from tests.draws import normal
from tests.families import QTYPES, label

X = normal(0, (4, 6, 64))


@pytest.mark.parametrize("name", ["mxfp8", "mxfp4", "int8_channel", "nvfp4", "e4m3fn"])
def test_transposing_and_indexing_commute_with_decoding(name):
    stored = qjax.encode(X, name)
    values = stored.decode()
    assert jnp.array_equal(stored.transpose(2, 0, 1).decode(), values.transpose(2, 0, 1))
    assert jnp.array_equal(stored.T.decode(), values.T)
    whole = slice(None)
    for key in (1, (slice(1, 3), 2), (-1, ..., 3, whole), (whole, None, ..., 0, whole)):
        assert jnp.array_equal(stored[key].decode(), values[key])
    assert stored[..., None].T[0].qtype == stored.qtype
    assert [row.shape for row in stored[:2]] == [(6, 64)] * 2
    for key in ((..., 0, ...), (0, 0, 0, 0), jnp.arange(2), True, "a"):
        with pytest.raises(ValueError, match=r"one\s+integer or slice per axis, one `...`"):
            stored[key]


def test_reshaping_keeps_tiles_whole_or_is_refused():
    stored = qjax.encode(X, "mxfp8")
    for shape in ((24, 64), (4, 6, 2, 32), (2, 2, 6, 64), (1, 4, 6, 64)):
        assert jnp.array_equal(stored.reshape(*shape).decode(), stored.decode().reshape(shape))
    merged = stored.reshape(4, 384)
    assert jnp.array_equal(merged.decode(), stored.decode().reshape(4, 384))
    with pytest.raises(ValueError, match="cuts tiles"):
        stored.reshape(4, 6, 4, 16)
    with pytest.raises(ValueError, match="number of elements"):
        stored.reshape(4, 6, 63)
    with pytest.raises(ValueError, match="cuts tiles"):
        stored[:, :, 5:40]
    assert jnp.array_equal(stored[:, :, 32:].decode(), stored.decode()[:, :, 32:])


def test_concatenating_joins_whole_tiles():
    a = qjax.encode(X, "mxfp8")
    with pytest.raises(ValueError, match="one type"):
        qtensor.concatenate([a, qjax.encode(X, "mxfp4")])
    whole = qjax.encode(X, "int8_channel")
    with pytest.raises(ValueError, match="one scale spans"):
        qtensor.concatenate([whole, whole], 2)


@pytest.mark.parametrize("name", ["mxfp8", "e4m3fn", "nvfp4", "vs_quant"])
def test_what_is_joined_has_the_values_of_its_parts(name, tmp_path):
    a, b = qjax.encode(X[0], name), qjax.encode(2 * X[0], name)
    for axis, part in ((0, slice(4)), (1, (..., slice(32)))):
        parts = [a, b, b[part]]
        joined, expected = qtensor.concatenate(parts, axis), [x.decode() for x in parts]
        expected = jnp.concatenate(expected, axis)
        assert jnp.array_equal(joined.decode(), expected)
        # What it is said to be is where its scales lie, as of anything that is encoded.
        again = jax.eval_shape(lambda x, q=joined.qtype: qjax.encode(x, q), expected)
        assert again == jax.eval_shape(lambda x=joined: x)
        assert qtensor.concatenate([a, a[part]], axis).qtype == a.qtype
    qtensor.save(tmp_path / "x", {"x": joined})
    assert jnp.array_equal(qtensor.load(tmp_path / "x")["x"].decode(), expected)


def test_scales_of_parts_that_no_type_has_are_not_joined():
    a, b = qjax.encode(X, "nvfp4"), qjax.encode(2 * X, "nvfp4")
    with pytest.raises(ValueError, match="one bound"):
        qtensor.concatenate([a, b], 1)
    assert qtensor.concatenate([a, a], 1).qtype == a.qtype


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 6, 7, 8, 12, 16])
def test_packing_round_trips_and_takes_exactly_its_bits(width):
    rng = np.random.default_rng(width)
    codes = rng.integers(0, 1 << width, size=(3, 7))
    stream = qtensor.pack(jnp.asarray(codes, jnp.uint16), width)
    assert stream.dtype == jnp.uint8
    assert stream.size == -(-21 * width // 8)
    # The definition: bit i of the stream is bit i % width of code i // width.
    bits = np.unpackbits(np.asarray(stream), bitorder="little")[: 21 * width]
    assert np.array_equal(bits.reshape(21, width) @ (1 << np.arange(width)), codes.ravel())
    assert np.array_equal(qtensor.unpack(stream, width, (3, 7)), codes)
    with pytest.raises(ValueError, match="whole stream"):
        qtensor.unpack(stream[:-1], width, (3, 7))


@pytest.mark.parametrize("qtype", QTYPES, ids=label)
def test_files_describe_themselves(qtype, tmp_path):
    safetensors = pytest.importorskip("safetensors")
    stored = qjax.encode(X[0], qtype)
    path = tmp_path / "x.safetensors"
    qtensor.save(path, {"a/w": stored})
    back = qtensor.load(path)["a/w"]
    assert back.qtype == stored.qtype
    assert jnp.array_equal(back.decode(), stored.decode())
    with safetensors.safe_open(str(path), framework="numpy") as file:
        assert json.loads(file.metadata()["qjax_tensors"])["a/w"]["type"] == qtype.name
    assert path.stat().st_size >= stored.nbytes


def test_broken_files_are_refused(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "x.safetensors"
    qtensor.save(path, {"w": qjax.encode(X, "mxfp4")})
    data = path.read_bytes()
    path.write_bytes(data[:-9])
    with pytest.raises(ValueError, match="whole"):
        qtensor.load(path)
    other = {"qjax_version": "0", "qjax_tensors": "{}"}
    safetensors.save_file({"w": np.zeros(3, np.uint8)}, str(path), metadata=other)
    with pytest.raises(ValueError, match="version"):
        qtensor.load(path)


def change(facts, arrays, what):
    """Makes a file inconsistent in one place."""
    fact = facts["w"]
    if what == "no description":
        facts["w"] = {}
    elif what == "array":
        arrays.pop("w/scale")
    elif what == "choice":
        arrays.pop("w/choice")
    elif what == "codes":
        arrays["w"] = arrays["w"][:-1]
    elif what == "type":
        fact["type"] = "mxfp8"
    elif what == "shape":
        fact["scale"]["layout"] = {k: [12, 8] for k in fact["scale"]["layout"]}
        fact["scale"]["layout"] |= {"order": [0, 1], "contract": [], "batch": []}
        arrays["w/scale"] = np.zeros(96, np.uint8)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("no description", "not complete"),
        ("array", "no such array"),
        ("choice", "not complete.*choice"),
        ("codes", "do not fit"),
        ("type", "'mxfp8', but its parts make 'cb41fi_e2m2fnuz:e8m0_t32'"),
        ("shape", r"\(24, 2\).*\(12, 8\)"),
    ],
)
def test_files_whose_parts_disagree_are_refused(what, reason, tmp_path):
    files = pytest.importorskip("safetensors.numpy")
    safetensors = pytest.importorskip("safetensors")
    path = tmp_path / "x.safetensors"
    qtensor.save(path, {"w": qjax.encode(X.reshape(24, 64), "cb41fi_e2m2fnuz:e8m0_t32")})
    with safetensors.safe_open(str(path), framework="numpy") as file:
        metadata = file.metadata()
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    facts = json.loads(metadata["qjax_tensors"])
    change(facts, arrays, what)
    metadata["qjax_tensors"] = json.dumps(facts)
    files.save_file(arrays, str(path), metadata=metadata)
    with pytest.raises(ValueError, match=reason):
        qtensor.load(path)


def test_moved_tensors_are_saved_as_they_are(tmp_path):
    pytest.importorskip("safetensors")
    whole = qjax.encode(X, "mxfp4")
    moved = {"t": whole.transpose(2, 0, 1), "i": whole[1:3, 2], "r": whole.reshape(24, 64)}
    moved["c"] = qtensor.concatenate([whole, whole], 1)
    qtensor.save(tmp_path / "x.safetensors", moved)
    for name, tensor in qtensor.load(tmp_path / "x.safetensors").items():
        assert jnp.array_equal(tensor.decode(), moved[name].decode())


def test_sizes_count_every_bit():
    stored = qjax.encode(X, "mxfp4")
    assert stored.nbytes == 4 * 6 * 64 // 2 + 4 * 6 * 2
    assert stored.bits_per_element == 4.25
    assert qjax.encode(X, "int8_tensor").nbytes == 4 * 6 * 64 + 4
    six = qjax.encode(X, "mxfp6_e3m2")
    assert six.nbytes == 4 * 6 * 64 * 6 // 8 + 48


def test_tensors_pass_through_jit_vmap_scan_and_trees():
    stored = qjax.encode(X, "mxfp8")
    assert jnp.array_equal(jax.jit(lambda t: t.decode())(stored), stored.decode())
    rows = jax.vmap(lambda x: qjax.encode(x, "mxfp8"))(X)
    assert jnp.array_equal(jax.vmap(lambda t: t.decode())(rows), stored.decode())
    for refused in (lambda: rows.decode(), lambda: rows[0], lambda: rows.T):
        with pytest.raises(ValueError, match="vmap"):
            refused()
    _, out = jax.lax.scan(lambda c, t: (c, t.decode()), 0, rows)
    assert jnp.array_equal(out, stored.decode())
    assert jax.tree.structure(jax.tree.map(lambda a: a, stored)) == jax.tree.structure(stored)


def test_tensors_are_encoded_and_decoded_under_explicit_sharding():
    mesh = jax.make_mesh((2, 2), ("d", "m"), axis_types=(jax.sharding.AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        # Tiles within a row, of which a device holds some, and along columns, cut by devices.
        for name, axis in itertools.product(("mxfp8", "int8_channel", "bfp16"), (-1, 0)):
            x = jax.device_put(X[0, :4], jax.P("d", "m"))
            stored = qjax.encode(x, name, axis=axis)
            assert stored.qvalue.sharding == x.sharding
            expected = qjax.cast(jax.device_put(X[0, :4], jax.P()), name, axis=axis)
            assert np.array_equal(stored.decode(), expected)


def test_sharded_tensors_encode_the_same_noise_and_values():
    mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d"))
    quantizer = qjax.Quantizer("mxfp4", rounding=qjax.rounding.Stochastic(), scale="floor")
    key = jax.random.key(3)
    here = quantizer.cast(X, key=key)
    assert jnp.array_equal(quantizer.cast(jax.device_put(X, place), key=key), here)


@pytest.mark.parametrize("name", ["mxfp4", "nvfp4", "int8_channel", "uint8_channel", "mx6"])
def test_tensors_come_back_from_orbax_donated_sharded_or_stacked(name, tmp_path):
    ocp = pytest.importorskip("orbax.checkpoint")
    mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d"))
    stored = qjax.encode(X, name)
    values = stored.decode()
    # A step that is given the only copy of the codes.
    donated = jax.jit(lambda t: jax.tree.map(lambda a: a, t), donate_argnums=0)
    again = donated(jax.tree.map(jnp.copy, stored))
    assert jnp.array_equal(again.decode(), values)
    sharded = jax.jit(lambda x: qjax.encode(x, name))(jax.device_put(X, place))
    assert jnp.array_equal(sharded.decode(), values)
    _, rows = jax.lax.scan(lambda c, x: (c, qjax.encode(x, name)), 0, X)
    with ocp.StandardCheckpointer() as checkpointer:
        for i, tensor in enumerate((stored, again, sharded, rows)):
            tree = {"layer": {"kernel": tensor}}
            checkpointer.save(tmp_path / str(i), tree)
            checkpointer.wait_until_finished()
            shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
            back = checkpointer.restore(tmp_path / str(i), shapes)["layer"]["kernel"]
            assert jax.tree.structure(back) == jax.tree.structure(tensor)
            assert back.qtype == stored.qtype
            for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(tensor)):
                assert a.dtype == b.dtype
                assert jnp.array_equal(a.view(jnp.uint8), b.view(jnp.uint8))


def test_qwix_arrays_hold_the_same_values():
    qwix = pytest.importorskip("qwix")
    # One scale level each: its product with an element is rounded in one way only.
    names = ("int8_channel", "int4_channel", "mxfp8", "e4m3fn_channel", "mxint8", "nf4_block64")
    for name in names:
        stored = qjax.encode(X[0], name)
        array = qtensor.to_qwix(stored)
        assert jnp.array_equal(qwix.dequantize(array), stored.decode())
        assert jnp.array_equal(qtensor.from_qwix(array).decode(), stored.decode())
    for name in ("mxfp6_e3m2", "uint4_group32"):
        with pytest.raises(ValueError, match="decode others"):
            qtensor.to_qwix(qjax.encode(X[0], name))


@pytest.mark.parametrize(("name", "dtype"), [("int4", "bfloat16"), ("nf4", "float32")])
def test_arrays_that_qwix_made_hold_what_it_dequantizes(name, dtype):
    qwix = pytest.importorskip("qwix")
    array = qwix.quantize(X[0].astype(dtype), name, channelwise_axes=(0,), tiled_axes={1: 16})
    back = qtensor.from_qwix(array)
    expected = qwix.dequantize(array)
    assert back.decode().dtype == expected.dtype
    assert jnp.array_equal(back.decode(), expected)


def test_codes_are_stored_in_the_format_s_own_dtype():
    assert qjax.encode(X, "mxfp8").qvalue.dtype == jnp.float8_e4m3fn
    assert qjax.encode(X, "mxfp4").qvalue.dtype == jnp.uint8
    assert qjax.encode(X, "int8_channel").qvalue.dtype == jnp.int8
    assert qtypes.MXFP8.format == formats.E4M3FN


def test_axes_that_are_not_there_are_not_joined_along():
    tensor = qjax.encode(jnp.ones((4, 32)), "mxfp4")
    with pytest.raises(ValueError, match=r"axis 2.*2 dimension"):
        qtensor.concatenate([tensor, tensor], 2)
    with pytest.raises(ValueError, match="no tensors"):
        qtensor.concatenate([])
    assert tensor.reshape((2, 2, 32)).transpose((1, 0, 2)).shape == (2, 2, 32)


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "int8"},
        {"dtype": "float99"},
        {"order": [1, 0]},
        {"order": [0, 0]},
        {"merged": [4, 31]},
        {"shape": [32, 4]},
    ],
    ids=str,
)
def test_a_description_that_contradicts_itself_is_refused(change):
    arrays = {}
    fact = qtensor.describe("w", qjax.encode(jnp.ones((4, 32)), "mxfp4"), arrays)
    assert qtensor.restore("w", fact, arrays, "there").shape == (4, 32)
    ((field, value),) = change.items()
    (fact if field == "dtype" else fact["layout"])[field] = value
    with pytest.raises(ValueError, match="do not fit together"):
        qtensor.restore("w", fact, arrays, "there")
