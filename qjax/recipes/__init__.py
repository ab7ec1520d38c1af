"""Recipes: which contractions of a model compute in what, by name."""

# The catalogue: importing a file registers its recipes.
from qjax.recipes import a2q as a2q
from qjax.recipes import bitpruning as bitpruning
from qjax.recipes import deepseek as deepseek
from qjax.recipes import dfp16 as dfp16
from qjax.recipes import dorefa as dorefa
from qjax.recipes import dsq as dsq
from qjax.recipes import fp4 as fp4
from qjax.recipes import fp8 as fp8
from qjax.recipes import fp8_delayed as fp8_delayed
from qjax.recipes import fractrain as fractrain
from qjax.recipes import hbfp as hbfp
from qjax.recipes import hdqt as hdqt
from qjax.recipes import int4_transformer as int4_transformer
from qjax.recipes import lmul as lmul
from qjax.recipes import lsq as lsq
from qjax.recipes import microscaling as microscaling
from qjax.recipes import nvfp4 as nvfp4
from qjax.recipes import pact as pact
from qjax.recipes import plain as plain
from qjax.recipes import qfx as qfx
from qjax.recipes import s2fp8 as s2fp8
from qjax.recipes import shiftquant as shiftquant
from qjax.recipes import squashed as squashed
from qjax.recipes import ternary as ternary
from qjax.recipes import vs_quant as vs_quant
from qjax.recipes.registry import Method as Method
from qjax.recipes.registry import get as get
from qjax.recipes.registry import names as names
from qjax.recipes.registry import register as register
from qjax.recipes.registry import six_operands as six_operands
from qjax.recipes.rules import Recipe as Recipe
from qjax.recipes.rules import Rule as Rule
