"""Tiles: split and join undo each other, and a tile holds the elements it should."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from qjax.tiling import Tile, resolve

CASES = [
    ((4, 64), Tile(32, 1), (1,), ()),
    ((64, 4), Tile(32, 1), (0,), ()),
    ((3, 70), Tile(32, 1), (1,), ()),
    ((70, 3), Tile(32, 1), (0,), ()),
    ((2, 8, 16), Tile(32, 1), (1, 2), ()),
    ((2, 5, 7), Tile(32, 1), (1, 2), ()),
    ((5, 2, 7), Tile(4, 1), (0, 2), ()),
    ((6, 10), Tile(4, 4), (0,), ()),
    ((2, 6, 10), Tile(4, 4), (1,), (0,)),
    ((2, 6, 10), Tile(None, None), (1,), (0,)),
    ((2, 6, 10), Tile(None, 1), (2,), (0,)),
    ((7,), Tile(16, 1), (0,), ()),
    ((1, 1), Tile(32, 1), (0, 1), ()),
    ((0, 3), Tile(32, 1), (0,), ()),
    ((), Tile(32, 1), (), ()),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_split_and_join_undo_each_other(case):
    shape, tile, contract, batch = case
    layout = resolve(shape, tile, contract, batch)
    x = jnp.arange(1, math.prod(shape) + 1, dtype=jnp.float32).reshape(shape)
    assert jnp.array_equal(layout.join(layout.split(x)), x)
    assert layout.split(x).shape == layout.view_shape


def flat(shape, index, axes) -> int:
    """Position of an index within the given axes, flattened in order."""
    position = 0
    for axis in axes:
        position = position * shape[axis] + index[axis]
    return position


@pytest.mark.parametrize("case", CASES, ids=str)
def test_tiles_are_consecutive_in_the_flattened_contracted_axes(case):
    shape, tile, contract, batch = case
    layout = resolve(shape, tile, contract, batch)
    if math.prod(shape) == 0:
        return
    # Number every tile, spread the numbers, and compare with numbering by hand.
    numbers = jnp.arange(math.prod(layout.scale_shape), dtype=jnp.float32)
    got = np.asarray(layout.spread(numbers.reshape(layout.scale_shape)))
    assert got.shape == shape
    keep = [a for a in range(len(shape)) if a not in contract + batch]
    seen = {}
    for index in np.ndindex(*shape):
        along, across = flat(shape, index, contract), flat(shape, index, keep)
        tag = (
            0 if tile.contract is None else along // tile.contract,
            0 if tile.keep is None else across // tile.keep,
            () if tile.keep is None else tuple(index[a] for a in batch),
        )
        assert seen.setdefault(tag, got[index]) == got[index]
    assert len(set(seen.values())) == len(seen) == len(np.unique(got))


@pytest.mark.parametrize("extent", [0, -1, 1.5])
def test_impossible_extents_are_refused(extent):
    with pytest.raises(ValueError, match="at least 1"):
        Tile(extent, 1)


def test_axes_out_of_range_and_twice_are_refused():
    with pytest.raises(ValueError, match=r"axis 2.*-2 to 1"):
        resolve((3, 4), Tile(), (2,))
    with pytest.raises(ValueError, match="twice"):
        resolve((3, 4), Tile(), (1, -1))
    with pytest.raises(ValueError, match="twice"):
        resolve((3, 4), Tile(), (1,), (1,))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_number_for_all_tiles_spreads_like_as_many_equal_ones(case):
    layout = resolve(*case)
    wanted = layout.spread(jnp.full(layout.scale_shape, 3.0))
    for one in (jnp.float32(3), jnp.full((1,) * len(layout.scale_shape), 3.0)):
        got = layout.spread(one)
        assert got.shape == wanted.shape == case[0]
        assert jnp.array_equal(got, wanted)
