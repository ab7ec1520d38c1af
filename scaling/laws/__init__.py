"""Scaling laws: what they are, those that are published, and a registry for more.

Importing this package registers every built-in law.
"""

from scaling.laws import capacity as capacity
from scaling.laws import compute as compute
from scaling.laws import degradation as degradation
from scaling.laws import families as families
from scaling.laws import kumar as kumar
from scaling.laws import sun as sun
from scaling.laws.law import Law as Law
from scaling.laws.law import Param as Param
from scaling.laws.law import coefficient as coefficient
from scaling.laws.law import exponent as exponent
from scaling.laws.published import Published as Published
from scaling.laws.published import published as published
from scaling.laws.published import published_names as published_names
from scaling.laws.registry import close_built_in
from scaling.laws.registry import get as get
from scaling.laws.registry import names as names
from scaling.laws.registry import register as register
from scaling.laws.registry import unregister as unregister

close_built_in()
