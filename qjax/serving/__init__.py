"""Models served in few bits: weights as packed tensors, and the files that hold them."""

from qjax.serving.files import load as load
from qjax.serving.files import save as save
from qjax.serving.packing import UnpackedWarning as UnpackedWarning
from qjax.serving.packing import pack as pack
from qjax.serving.packing import pack_by_names as pack_by_names
from qjax.serving.sizes import size_of as size_of
