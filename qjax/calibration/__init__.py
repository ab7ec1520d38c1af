"""Which statistic bounds a tile, and how a power-of-two scale is drawn from it."""

from qjax.calibration._base import AbsMax as AbsMax
from qjax.calibration._base import Calibration as Calibration
from qjax.calibration._base import Fixed as Fixed
from qjax.calibration._base import largest as largest
from qjax.calibration._groups import best_groups as best_groups
from qjax.calibration._groups import power_groups as power_groups
from qjax.calibration._rules import RULES as RULES
from qjax.calibration._rules import exponent_of as exponent_of
from qjax.calibration._state import Delayed as Delayed
from qjax.calibration._state import MovingAverage as MovingAverage
from qjax.calibration._statistics import Entropy as Entropy
from qjax.calibration._statistics import MeanAbsMax as MeanAbsMax
from qjax.calibration._statistics import Moments as Moments
from qjax.calibration._statistics import Percentile as Percentile
from qjax.calibration._statistics import RootMeanSquare as RootMeanSquare
from qjax.calibration._statistics import Search as Search
from qjax.calibration._statistics import sawb as sawb
