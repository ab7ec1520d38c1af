"""Tiles that share a scale: the only place that splits arrays into them.

A `Tile` is relative to a use: how far one scale reaches along the axes that a dot product sums
over and along the others. `resolve` turns it, for one shape, into a `Layout`, which splits an
array into tiles by reshaping (it transposes only where several axes must be flattened that do not
divide into tiles one by one) and joins it again.
"""

from qjax.tiling._layout import Layout as Layout
from qjax.tiling._resolve import normalize as normalize
from qjax.tiling._resolve import resolve as resolve
from qjax.tiling._shards import blocks_cut as blocks_cut
from qjax.tiling._shards import check_flattened as check_flattened
from qjax.tiling._shards import shards as shards
from qjax.tiling._tile import Tile as Tile
