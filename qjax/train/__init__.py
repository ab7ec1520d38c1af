"""Training in low precision: a step from task, optimizer and recipe, and the loop around it."""

from qjax.train import data as data
from qjax.train.checkpoints import CheckpointError as CheckpointError
from qjax.train.checkpoints import Checkpoints as Checkpoints
from qjax.train.evaluation import Evaluation as Evaluation
from qjax.train.evaluation import gap as gap
from qjax.train.evaluation import make_evaluator as make_evaluator
from qjax.train.interruption import Diverged as Diverged
from qjax.train.interruption import Interrupted as Interrupted
from qjax.train.loop import Result as Result
from qjax.train.loop import run as run
from qjax.train.loss_scale import DynamicScale as DynamicScale
from qjax.train.loss_scale import LossScale as LossScale
from qjax.train.loss_scale import StaticScale as StaticScale
from qjax.train.metrics import MetricsFile as MetricsFile
from qjax.train.metrics import read_metrics as read_metrics
from qjax.train.progress import Progress as Progress
from qjax.train.state import State as State
from qjax.train.state import count_parameters as count_parameters
from qjax.train.step import Step as Step
from qjax.train.tasks import FunctionTask as FunctionTask
from qjax.train.tasks import LinenTask as LinenTask
from qjax.train.tasks import NnxTask as NnxTask
from qjax.train.tasks import Task as Task
from qjax.train.tasks import cross_entropy as cross_entropy
from qjax.train.versions import versions as versions
