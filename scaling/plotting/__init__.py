"""Pictures of fits and plans, readable without color; ``scaling.plotting.plot`` is the door.

matplotlib belongs to the ``plots`` extra and is imported when a picture is drawn, never before.
"""

from scaling.plotting.door import KINDS as KINDS
from scaling.plotting.door import plot as plot
