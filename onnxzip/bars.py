"""Progress on a terminal: one bar a stage, with the time left. Where stderr is no terminal only notes appear."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Bars:
    """A `Progress` (see `onnxzip.progress`) for people; use it in a `with` statement."""

    def __init__(self) -> None:
        console = Console(file=sys.stderr, soft_wrap=True, highlight=False)
        self._bars = Progress(
            TextColumn("{task.description:8}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self._finish()
        self._bars.stop()

    def begin(self, stage: str, total: int) -> None:
        """A bar of its own for a stage; one that only moves where the total is not known."""
        self._finish()
        self._task = self._bars.add_task(stage, total=total or None, detail="")

    def advance(self, parts: int) -> None:
        """Move the bar."""
        if self._task is not None:
            self._bars.advance(self._task, parts)

    def detail(self, text: str) -> None:
        """A few words behind the bar."""
        if self._task is not None:
            self._bars.update(self._task, detail=escape(text))

    def note(self, text: str) -> None:
        """A line above the bars."""
        self._bars.console.print(f"note: {escape(text)}")

    def _finish(self) -> None:
        if self._task is not None:
            task = next(t for t in self._bars.tasks if t.id == self._task)
            total = task.total if task.total is not None else max(task.completed, 1)
            self._bars.update(self._task, total=total, completed=total)
            self._task = None
