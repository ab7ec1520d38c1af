"""The door for flax.nnx: modules whose layers compute by a recipe."""

from qjax.nnx.door import pack as pack
from qjax.nnx.door import program as program
from qjax.nnx.door import quantize as quantize
from qjax.nnx.door import report as report
from qjax.nnx.store import Cotangent as Cotangent
from qjax.nnx.store import Facts as Facts
from qjax.nnx.store import Penalty as Penalty
from qjax.nnx.store import State as State
from qjax.nnx.store import penalties as penalties
from qjax.nnx.store import take as take
from qjax.nnx.streams import STREAM as STREAM
