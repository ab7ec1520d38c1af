"""The door for flax.linen: modules whose layers compute by a recipe."""

from qjax.linen.door import program as program
from qjax.linen.door import quantize as quantize
from qjax.linen.door import quantize_class as quantize_class
from qjax.linen.door import quantize_instance as quantize_instance
from qjax.linen.door import report as report
from qjax.linen.l1_norm import L1Norm as L1Norm
from qjax.linen.l1_norm import l1_normalize as l1_normalize
from qjax.linen.noise import STREAM as STREAM
from qjax.linen.refound import refound as refound
from qjax.recipes.matching import UnmatchedRuleWarning as UnmatchedRuleWarning
