"""Post-training quantization: what a trained model's operands look like, and what follows."""

from qjax.ptq.capture import capture as capture
from qjax.ptq.observing import observing as observing
from qjax.ptq.statistics import Statistics as Statistics
from qjax.ptq.statistics import Summary as Summary
