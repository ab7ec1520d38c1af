"""The only place that loses precision: values onto the grid of a format.

`cast` returns values, in the dtype of its input. Codes are `Format.encode` of what it returns.
"""

from qjax.casting._door import cast as cast
from qjax.casting._door import check_floating as check_floating
from qjax.casting._door import check_kind as check_kind
from qjax.casting._door import need_key as need_key
from qjax.casting._ends import times_power as times_power
from qjax.casting._format import on_format as on_format
from qjax.casting._grid import on_grid as on_grid
from qjax.casting._grid import on_shifted as on_shifted
from qjax.casting._relative import fits as fits
from qjax.casting._shift import Shift as Shift
from qjax.casting._shift import shift_of as shift_of
from qjax.casting._wide import converted as converted
