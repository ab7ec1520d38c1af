"""The door for flax.linen: modules whose layers compute by a recipe."""

from qjax.linen.door import STREAM as STREAM
from qjax.linen.door import program as program
from qjax.linen.door import quantize as quantize
from qjax.linen.door import quantize_class as quantize_class
from qjax.linen.door import quantize_instance as quantize_instance
from qjax.linen.door import report as report
from qjax.recipes.matching import UnmatchedRuleWarning as UnmatchedRuleWarning
