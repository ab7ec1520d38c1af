"""The stored thing: codes, scales and the type that says how to read them."""

from qjax.qtensor._files import describe as describe
from qjax.qtensor._files import load as load
from qjax.qtensor._files import restore as restore
from qjax.qtensor._files import save as save
from qjax.qtensor._join import concatenate as concatenate
from qjax.qtensor._pack import pack as pack
from qjax.qtensor._pack import unpack as unpack
from qjax.qtensor._qwix import from_qwix as from_qwix
from qjax.qtensor._qwix import to_qwix as to_qwix
from qjax.qtensor._sparse import cleared as cleared
from qjax.qtensor._sparse import kept as kept
from qjax.qtensor._tensor import QTensor as QTensor
from qjax.qtensor._tensor import factors as factors
from qjax.qtensor._tensor import plain as plain
