"""Ctrl-C as a wish: the first one is noted and the work ends at its next safe place; the second interrupts as usual."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any


class Wish:
    """Whether the work is to end, as all processes agree on at the same places; once granted it stays so.

    Args:
        ask: tells it; every process must call it as often as the others.
    """

    def __init__(self, ask: Callable[[], bool]) -> None:
        self._ask = ask
        self.granted = False

    def asked(self) -> bool:
        """Ask all."""
        self.granted = self.granted or self._ask()
        return self.granted


class Interrupt:
    """While it is entered, SIGINT sets `asked`; outside of the main thread, which alone gets signals, nothing changes."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self._restore()

    def _restore(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None
