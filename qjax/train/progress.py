"""The progress display: a bar on a terminal, a line now and then elsewhere. It computes nothing."""

import time
from typing import Any


class Progress:
    """Shows loss, tokens per second and the time left, as a context manager.

    Args:
      title: Name of the run.
      steps: Number of steps of the whole run.
      start: Steps already taken.
      unit: What is counted per second.
    """

    def __init__(self, title: str, *, steps: int, start: int = 0, unit: str = "tokens"):
        self.title, self.steps, self.start, self.unit = title, steps, start, unit
        self._began = time.monotonic()
        self._printed = 0
        self._bar: Any = None

    def __enter__(self) -> "Progress":
        from rich import progress

        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[note]}"),
            progress.TimeRemainingColumn(),
        )
        bar = progress.Progress(*columns)
        if bar.console.is_terminal:
            self._bar = bar
            self._task = bar.add_task(
                self.title, total=self.steps, completed=self.start, note="compiling"
            )
            bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: int, loss: float, per_second: float) -> None:
        """Shows the state after `step` steps."""
        note = f"loss {loss:.4f}  {per_second:,.0f} {self.unit}/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, note=note)
        elif step * 10 // self.steps > self._printed or step == self.steps:
            self._printed = step * 10 // self.steps
            spent = time.monotonic() - self._began
            left = spent * (self.steps - step) / max(step - self.start, 1)
            print(f"{self.title}  step {step}/{self.steps}  {note}  {left:.0f} s left", flush=True)

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, flush=True)


class Silent(Progress):
    """Shows nothing."""

    def __init__(self) -> None:
        super().__init__("", steps=1)

    def __enter__(self) -> "Silent":
        return self

    def update(self, step: int, loss: float, per_second: float) -> None:
        del step, loss, per_second

    def say(self, text: str) -> None:
        del text
