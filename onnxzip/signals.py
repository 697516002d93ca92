"""Signals that end the work: Ctrl-C, and what a program gets that is to end or whose terminal is closed.

A signal that is ignored (nohup) stays so. Only the main thread gets signals; elsewhere nothing here changes anything.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, TypeVar

ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
Self = TypeVar("Self", bound="Handled")


class Handled:
    """While it is entered, and until `restore`, signals go to a handler of their own.

    Attributes:
        before: the handlers that come back.
    """

    def __init__(self, numbers: Iterable[int], handler: Callable[[int, FrameType | None], None]) -> None:
        self._numbers, self._handler = tuple(numbers), handler
        self.before: dict[int, Any] = {}

    def __enter__(self: Self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in self._numbers:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self.before[number] = signal.signal(number, self._handler)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.restore()

    def restore(self) -> None:
        """Bring the handlers from before back."""
        while self.before:
            signal.signal(*self.before.popitem())


class Ending(Handled):
    """While it is entered, signals raise KeyboardInterrupt, so that whoever has made something cleans up.

    After the first one SIGINT alone interrupts once more: a closed terminal and a machine that shuts down send several.

    Attributes:
        number: the first signal that has come; None for none.
    """

    def __init__(self) -> None:
        super().__init__(ENDING, self)
        self.number: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        if self.note(number) or number == signal.SIGINT:
            raise KeyboardInterrupt

    def note(self, number: int) -> bool:
        """Keep what has come; whether it is the first."""
        first, self.number = self.number is None, self.number or number
        return first

    @property
    def exit_code(self) -> int:
        """What a process exits with that such a signal has ended."""
        return 128 + int(self.number or signal.SIGINT)


def leave(number: int, frame: FrameType | None) -> None:
    """A handler for as long as modules load: nothing is to be cleaned up yet, and an interrupted import may raise anything."""
    print("interrupted; nothing was written", file=sys.stderr, flush=True)
    os._exit(128 + number)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Signals that would run Python code come meanwhile, but are handled at the end: what runs here is never cut in two."""
    came: list[int] = []
    numbers = [number for number in ENDING if callable(signal.getsignal(number))]
    try:
        with Handled(numbers, lambda number, frame: came.append(number)):
            yield
    finally:
        for number in dict.fromkeys(came):
            signal.raise_signal(number)
