"""Ctrl-C as a wish: the first one is noted and the work ends at its next safe place; the second interrupts as usual."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import FrameType

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


class Interrupt(Handled):
    """While it is entered, the first signal to end sets `asked`; outside of the main thread nothing changes.

    Args:
        numbers: of the signals.
    """

    def __init__(self, numbers: Iterable[int] = ENDING) -> None:
        super().__init__(numbers, self._note)
        self.asked = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        outer = self.before.get(number)
        if isinstance(outer, Ending):
            outer.note(number)
        self.restore()
