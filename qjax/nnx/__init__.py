"""The door for flax.nnx: modules whose layers compute by a recipe."""

from qjax.nnx.door import pack as pack
from qjax.nnx.door import program as program
from qjax.nnx.door import quantize as quantize
from qjax.nnx.door import report as report
from qjax.nnx.fill import STREAM as STREAM
