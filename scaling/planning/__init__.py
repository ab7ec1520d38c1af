"""Planning: which size, data and format to train with a given budget, and how sure that is.

``scaling.plan`` is the door. Costs and formats are described by ``costs`` and
``candidates``, the search is in ``search``, real-valued precisions are in ``precision``.
"""

from scaling.planning.candidates import Candidate as Candidate
from scaling.planning.choices import Plan as Plan
from scaling.planning.costs import Cost as Cost
from scaling.planning.door import plan as plan
from scaling.planning.precision import PrecisionPath as PrecisionPath
from scaling.planning.precision import precision_path as precision_path
