"""Ctrl-C as a wish: the first one is noted and the work ends at its next safe place; the second interrupts as usual."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import FrameType, TracebackType

from onnxzip.signals import ENDING, Ending, Handled


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
    """While it is entered, the first signal to end sets `asked`; outside of the main thread nothing changes.

    Args:
        numbers: of the signals.
    """

    def __init__(self, numbers: Iterable[int] = ENDING) -> None:
        self.asked = False
        self._handled = Handled(numbers, self._note)

    def __enter__(self) -> Interrupt:
        self._handled.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._handled.restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        outer = self._handled.before.get(number)
        if isinstance(outer, Ending):
            outer.note(number)
        self._handled.restore()
