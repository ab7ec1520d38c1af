"""Kernels for GPUs and TPUs: quantization in one pass, and products with four-bit weights.

Each computes what the reference computes, by the same functions of the number system; what it
saves is passes over memory. On a CPU there is no Pallas compiler: `interpret=True` runs a kernel
step by step, for tests.
"""

from qjax.contraction.pallas.quantize import cast as cast
from qjax.contraction.pallas.quantize import encode as encode
from qjax.contraction.pallas.quantize import tiled as tiled
from qjax.contraction.pallas.weights import matmul as matmul
from qjax.contraction.pallas.weights import packs as packs
