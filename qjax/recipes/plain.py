"""The recipes that need no paper: high precision, and integers with absmax scales."""

from qjax import qtypes
from qjax.contraction import Policy
from qjax.quantizer import Quantizer
from qjax.recipes.registry import Method, register, six_operands
from qjax.recipes.rules import Recipe, Rule

METHOD = Method(title="no paper", paper="-", cost="-")


@register("float32", METHOD)
def float32() -> Recipe:
    """Quantizes nothing: the model as its author wrote it."""
    return Recipe((Rule(".*", Policy(), name="float32"),), name="float32")


@register("int8", METHOD)
def int8() -> Recipe:
    """INT8 with one float32 scale per row or column, in all six operands."""
    return six_operands("int8", Quantizer(qtypes.INT8_CHANNEL))
