"""What a run leaves behind: values of every step, evaluations, speeds, the metrics file."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from qjax.train import distributed
from qjax.train.evaluation import Evaluation
from qjax.train.interruption import Diverged
from qjax.train.metrics import Metrics
from qjax.train.state import State


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """The outcome of one call of `run`.

    Attributes:
      state: The last state, or None where the run diverged.
      history: Arrays [T] by name, one value per step taken in this call: `loss`, `grad_norm`, ...
      evaluations: Held-out losses, in order of steps.
      per_second: Median items (tokens) per second over chunks, compiling and evaluating aside.
      compile_seconds: Time spent compiling chunks.
    """

    state: State | None
    history: Mapping[str, np.ndarray]
    evaluations: tuple[Evaluation, ...]
    per_second: float
    compile_seconds: float


class Record:
    """Collects what happens in one call of `run`, and writes it down as it comes.

    Args:
      metrics: Where to append rows; only the first process of several writes.
      finite: Names of the metrics that must stay finite.
    """

    def __init__(self, metrics: Metrics | None, *, finite: tuple[str, ...]):
        self.metrics = metrics if distributed.first() else None
        self.finite = finite
        self.history: dict[str, list[float]] = {}
        self.evaluations: list[Evaluation] = []
        self.speeds: list[float] = []

    def steps(self, rows: Mapping[str, np.ndarray], start: int, per_second: float) -> None:
        """Adds the metrics [n] of the n steps after `start`.

        Raises:
          Diverged: If one that must be finite is not; none of the rows is kept then.
        """
        self._check(rows, start)
        self.speeds.append(per_second)
        for name, values in rows.items():
            self.history.setdefault(name, []).extend(values.tolist())
        if self.metrics is not None:
            speed = {"per_second": round(per_second, 1)}
            count = len(next(iter(rows.values())))
            self.metrics.write(
                [
                    {"step": start + i + 1, **{k: float(v[i]) for k, v in rows.items()}, **speed}
                    for i in range(count)
                ]
            )

    def evaluation(self, evaluation: Evaluation) -> None:
        """Adds a held-out loss."""
        self.evaluations.append(evaluation)
        if self.metrics is not None:
            self.metrics.write([{"step": evaluation.step, "held_out_loss": evaluation.loss}])

    def held_out(self, step: int) -> float | None:
        """The held-out loss measured after exactly `step` steps, if there is one."""
        last = self.evaluations[-1] if self.evaluations else None
        return last.loss if last is not None and last.step == step else None

    def result(self, state: State | None, compile_seconds: float = 0.0) -> Result:
        """Returns everything so far, with the state it led to."""
        return Result(
            state=state,
            history={name: np.asarray(values) for name, values in self.history.items()},
            evaluations=tuple(self.evaluations),
            per_second=float(np.median(self.speeds)) if self.speeds else 0.0,
            compile_seconds=compile_seconds,
        )

    def _check(self, rows: Mapping[str, np.ndarray], start: int) -> None:
        for name in self.finite:
            bad = np.flatnonzero(~np.isfinite(rows[name]))
            if len(bad):
                at = start + int(bad[0]) + 1
                raise Diverged(
                    f"The {name.replace('grad_norm', 'gradient norm')} at step {at} is "
                    f"{rows[name][bad[0]]}: the run stops there. Look at the batch of step {at}, "
                    "lower the learning rate, or give the step a `clip` or a `loss_scale`.",
                    self.result(None),
                    at,
                )
