"""Ends a run cleanly: signals are noted and the loop stops where its state is whole.

`Interrupted` leaves the process with the shell's code for the signal (130 for Ctrl-C, 143 for
SIGTERM) unless the caller handles it; `Diverged` says which step stopped being finite.
"""

import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(SystemExit):
    """A run that a signal ended after the chunk it was in; everything is written.

    Attributes:
      result: The run up to that point.
      signal: The signal's number; the exit code is 128 plus it.
    """

    def __init__(self, result: Any, number: int):
        super().__init__(128 + number)
        self.result = result
        self.signal = number


class Diverged(FloatingPointError):
    """A run whose loss or gradient stopped being finite.

    Attributes:
      result: The run up to the last chunk that was finite throughout.
      step: The step, counted from 1, that went wrong.
    """

    def __init__(self, message: str, result: Any, step: int):
        super().__init__(message)
        self.result = result
        self.step = step


class Watch:
    """Context manager that notes signals instead of letting them cut a step in two.

    A second Ctrl-C is not held back. Outside the main thread, where Python delivers no
    signals, nothing is watched.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Watch":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
