"""Low-precision numerics for JAX: formats, casts, contractions and recipes."""

from qjax import formats as formats
from qjax import qtypes as qtypes
from qjax import rounding as rounding
from qjax.qtensor import QTensor as QTensor
from qjax.qtypes import QType as QType
from qjax.quantizer import Quantizer as Quantizer
from qjax.quantizer import cast as cast
from qjax.quantizer import encode as encode
from qjax.tiling import Tile as Tile
