"""Progress of long work: library code tells a `Progress`, whoever runs it decides what is shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from onnxzip.errors import UsageError


class Progress(Protocol):
    """Who is told how far the work is."""

    def begin(self, stage: str, total: int) -> None:
        """A stage of so many parts begins; 0 where nobody knows how many."""

    def advance(self, parts: int) -> None:
        """So many more parts of the stage are done."""

    def detail(self, text: str) -> None:
        """How things stand in the stage, in place of what was said of it before."""

    def note(self, text: str) -> None:
        """Something that the user should know, once."""


class Silent:
    """Nobody is told."""

    def begin(self, stage: str, total: int) -> None:
        """Nothing."""

    def advance(self, parts: int) -> None:
        """Nothing."""

    def detail(self, text: str) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""


def told(progress: Progress | None) -> Progress:
    """Who is told, nobody where none is given.

    Raises:
        UsageError: it cannot be told.
    """
    if progress is None:
        return Silent()
    lacking = [name for name in ("begin", "advance", "detail", "note") if not callable(getattr(progress, name, None))]
    if lacking:
        kind = type(progress).__name__
        raise UsageError(f"progress: give an object as `onnxzip.Progress` describes it; this {kind} has no {lacking[0]}()")
    return progress


@dataclass
class Stages:
    """The stages of one piece of work, and the time they took.

    Attributes:
        progress: who is told.
        seconds: stage -> seconds, for those that are over.
    """

    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    def measured(self) -> dict[str, float]:
        """Seconds by stage, and `total` since the work began."""
        return {**self.seconds, "total": time.perf_counter() - self.started}

    @contextmanager
    def stage(self, name: str, total: int = 0) -> Iterator[Callable[[int], None]]:
        """Run a stage; yields what is to be called with the number of parts done."""
        self.progress.begin(name, total)
        start = time.perf_counter()
        yield self.progress.advance
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
