"""Tiles and blocks of arrays that a mesh splits: cut ones are refused, all others are as ever."""

import functools

import jax
import numpy as np
import pytest

import qjax
from qjax import Quantizer, qtypes
from qjax.contraction.transforms import Hadamard
from qjax.qtypes import QType
from qjax.tiling import Tile
from tests.draws import normal

X = normal(0, (4, 16, 32))
W = normal(1, (32, 64))
G = normal(3, (4, 16, 64))


def tiles(contract, keep=1):
    return Quantizer(QType(qtypes.MXFP8.format, Tile(contract, keep), qtypes.MXFP8.scale))


def split(x, *names, kind=jax.sharding.AxisType.Explicit):
    mesh = jax.make_mesh((2, 2), ("d", "m"), axis_types=(kind,) * 2)
    return jax.device_put(x, jax.NamedSharding(mesh, jax.P(*names)))


WHOLE = {
    "square tiles of weights": (tiles(4, 4), ("d", None)),
    "square tiles, both axes split": (tiles(4, 4), ("d", "m")),
    "square tiles, one axis split twice": (tiles(4, 4), (None, ("d", "m"))),
    "square tiles as long as an axis": (tiles(None, 4), ("d", "m")),
    "tiles in columns": (Quantizer("nvfp4"), ("d", "m")),
    "a tile over devices": (Quantizer("int8_channel"), ("d", "m")),
}


@pytest.mark.parametrize("name", WHOLE)
def test_tiles_that_no_device_cuts_are_those_of_the_whole_array(name):
    quantizer, names = WHOLE[name]
    x = split(W, *names)
    with jax.set_mesh(x.sharding.mesh):
        got = quantizer.cast(x, contract=(0,))
    assert got.sharding.is_equivalent_to(x.sharding, x.ndim)
    np.testing.assert_array_equal(got, quantizer.cast(W, contract=(0,)))


def test_maxima_over_two_axes_beside_a_split_one_are_those_of_the_whole_array():
    big, quantizer = normal(2, (4, 64, 64)), Quantizer("int8_channel")
    x = split(big, None, None, "d")
    with jax.set_mesh(x.sharding.mesh):
        got = quantizer.cast(x, contract=(0, 1))
    np.testing.assert_array_equal(got, quantizer.cast(big, contract=(0, 1)))


CUT = {
    "along an axis": (
        tiles(8),
        (1,),
        (None, ("d", "m")),
        r"Tiles of 8 .* axis 1 of .*over 4 devices .* 4 element.* jax\.P\(None, None, None\)",
    ),
    "across an axis": (
        tiles(8, 12),
        (1,),
        ("m", None, "d"),
        r"Tiles of 12 .*\(0, 2\) together .* splits axis 2 over 2 .* jax\.P\('m', None, None\)",
    ),
    "along axes together": (
        tiles(24),
        (1, 2),
        (None, None, "d"),
        r"Tiles of 24 .*\(1, 2\) together .* splits axis 2 over 2 ",
    ),
    "a batch": (
        Quantizer("mxfp8"),
        (0, 1),
        (("d", "m"),),
        r"Tiles of 2 .* axis 0 of .*over 4 devices .* 1 element",
    ),
}


@pytest.mark.parametrize("name", CUT)
def test_tiles_that_an_explicit_mesh_cuts_are_refused_and_the_advice_helps(name):
    quantizer, contract, names, message = CUT[name]
    x = split(X, *names)
    with jax.set_mesh(x.sharding.mesh):
        with pytest.raises(ValueError, match=message):
            quantizer.cast(x, contract=contract)
        gathered = jax.sharding.reshard(x, jax.P(None, None, None))
        got = quantizer.cast(gathered, contract=contract)
    np.testing.assert_array_equal(got, quantizer.cast(X, contract=contract))


def test_blocks_of_a_transform_that_an_explicit_mesh_cuts_are_refused():
    x = split(X, None, "d", "m")
    with jax.set_mesh(x.sharding.mesh):
        for block, axis in ((8, 1), (16, 2)):
            got = Hadamard(block).mapped(0, x, (), axis)
            np.testing.assert_array_equal(got, Hadamard(block).mapped(0, X, (), axis))
        with pytest.raises(ValueError, match=r"Blocks of `Hadamard` of 16 .* axis 1 .*over 2 dev"):
            Hadamard(16).mapped(0, x, (), 1)
    left = split(normal(4, (18,)), ("d",))
    # 16 + 2: neither is a block of one device.
    message = "Blocks of `Hadamard` of 16 .* 9 element"
    with jax.set_mesh(left.sharding.mesh), pytest.raises(ValueError, match=message):
        Hadamard(16).mapped(0, left, (), 0)


def run(recipe, x, w, cotangent):
    """A product and both its gradients."""
    policy, dims = qjax.recipes.get(recipe).default, (((2,), (0,)), ((), ()))
    options = {"policy": policy, "key": jax.random.key(0)}
    out, back = jax.vjp(lambda x, w: qjax.dot_general(x, w, dims, **options), x, w)
    return out, back(cotangent)


CUT_LATER = {"mxfp8": (("d", "m"),), "nvfp4": (None, "m")}


@pytest.mark.parametrize("recipe", CUT_LATER)
def test_a_weight_gradient_that_an_explicit_mesh_cuts_is_refused_and_the_product_is_not(recipe):
    x, g = (split(a, *CUT_LATER[recipe]) for a in (X, G))
    policy = qjax.recipes.get(recipe).default
    with jax.set_mesh(x.sharding.mesh):
        w = jax.sharding.reshard(W, jax.P())
        jax.eval_shape(lambda x, w: qjax.einsum("abi,io->abo", x, w, policy=policy), x, w)
        with pytest.raises(ValueError, match="an explicit mesh splits"):
            jax.eval_shape(functools.partial(run, recipe), x, w, g)


def check_equal(recipe, names, kind):
    x, g = (split(a, *names, kind=kind) for a in (X, G))
    w = jax.device_put(W, jax.NamedSharding(x.sharding.mesh, jax.P()))
    compiled = jax.jit(run, static_argnums=0)
    with jax.set_mesh(x.sharding.mesh):
        got = jax.block_until_ready(compiled(recipe, x, w, g))
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(compiled(recipe, X, W, G))):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("recipe", "names"), [("mxfp8", ("d", "m")), ("nvfp4", ("d", "m")), ("mxfp8", (None, "m"))]
)
def test_an_explicit_mesh_that_cuts_nothing_computes_what_one_device_does(recipe, names):
    check_equal(recipe, names, jax.sharding.AxisType.Explicit)


@pytest.mark.parametrize("recipe", ["mxfp8", "nvfp4"])
@pytest.mark.parametrize("names", [(("d", "m"),), (None, "m"), ("d", "m")], ids=str)
def test_automatic_axes_may_cut_tiles_and_compute_what_one_device_does(recipe, names):
    check_equal(recipe, names, jax.sharding.AxisType.Auto)
