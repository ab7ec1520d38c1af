"""What a run trains: linen modules, nnx modules and plain functions behind one small interface."""

from qjax.train.tasks.base import Mode as Mode
from qjax.train.tasks.base import Outcome as Outcome
from qjax.train.tasks.base import Task as Task
from qjax.train.tasks.base import cross_entropy as cross_entropy
from qjax.train.tasks.functions import FunctionTask as FunctionTask
from qjax.train.tasks.linen import LinenTask as LinenTask
from qjax.train.tasks.nnx import NnxTask as NnxTask
