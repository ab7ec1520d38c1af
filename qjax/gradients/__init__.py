"""Gradient estimators: what the derivative of a rounding is taken to be in ordinary code.

A cast has derivative zero. Each function here wraps a cast, or is one, and gives it a useful
derivative. A quantized contraction writes its own backward pass and needs none of these; the
trained operands of its forward leg are made of them.
"""

from qjax.gradients._fixed import fixed_code as fixed_code
from qjax.gradients._fixed import learned_point as learned_point
from qjax.gradients._learned import learned_bits as learned_bits
from qjax.gradients._learned import lsq as lsq
from qjax.gradients._learned import lsq_plus as lsq_plus
from qjax.gradients._learned import pact as pact
from qjax.gradients._learned import soft_levels as soft_levels
from qjax.gradients._learned import spaced as spaced
from qjax.gradients._norms import l1_bounded as l1_bounded
from qjax.gradients._norms import l1_limit as l1_limit
from qjax.gradients._norms import onto_l1_ball as onto_l1_ball
from qjax.gradients._norms import squash as squash
from qjax.gradients._norms import unit_tanh as unit_tanh
from qjax.gradients._surrogates import Cast as Cast
from qjax.gradients._surrogates import biper as biper
from qjax.gradients._surrogates import clipped as clipped
from qjax.gradients._surrogates import dsq as dsq
from qjax.gradients._surrogates import ewgs as ewgs
from qjax.gradients._surrogates import round_through as round_through
from qjax.gradients._surrogates import scale_gradient as scale_gradient
from qjax.gradients._surrogates import scaled as scaled
from qjax.gradients._surrogates import straight_through as straight_through
from qjax.gradients._surrogates import tanh_surrogate as tanh_surrogate
from qjax.gradients._surrogates import through as through
