"""Scaling laws: what they are, those that are published, and a registry for more.

Importing this package registers every built-in law.
"""

from scaling.laws import compute as compute
from scaling.laws import kumar as kumar
from scaling.laws import sun as sun
from scaling.laws.law import Law as Law
from scaling.laws.law import Param as Param
from scaling.laws.law import coefficient as coefficient
from scaling.laws.law import exponent as exponent
from scaling.laws.registry import close_built_in
from scaling.laws.registry import get as get
from scaling.laws.registry import names as names
from scaling.laws.registry import register as register
from scaling.laws.registry import unregister as unregister

close_built_in()
