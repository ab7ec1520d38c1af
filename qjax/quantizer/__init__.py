"""How a quantized tensor is made: a type, a calibration, a rounding, and the same for its scale."""

from qjax.quantizer._doors import cast as cast
from qjax.quantizer._doors import encode as encode
from qjax.quantizer._quantizer import Quantizer as Quantizer
from qjax.quantizer._shrunk import Shrunk as Shrunk
from qjax.quantizer._squeeze import ShiftSqueeze as ShiftSqueeze
from qjax.quantizer._stored import Stored as Stored
