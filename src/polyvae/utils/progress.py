"""Progress: a bar with the remaining time on a terminal, and a line from time to time elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Reporter(Protocol):
    """Where fit and evaluate report their progress."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def start(self, what: str, total: int | None, done: int = 0) -> None: ...
    def advance(self, steps: int = 1, note: str = "") -> None: ...
    def say(self, line: str) -> None: ...


class Silent:
    """Reports nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def start(self, what: str, total: int | None, done: int = 0) -> None:
        return None

    def advance(self, steps: int = 1, note: str = "") -> None:
        return None

    def say(self, line: str) -> None:
        return None


class Shown:
    """A Rich bar on a terminal. Elsewhere a line from time to time: after a second, then ever more rarely, at last every ten seconds."""

    def __init__(self) -> None:
        self.console = Console(file=sys.stderr)
        self.note = ""
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("", total=None, note="", visible=False)
        self.total: int | None = None
        self.what, self.done, self.first, self.began, self.last = "", 0, 0, 0.0, 0.0

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def start(self, what: str, total: int | None, done: int = 0) -> None:
        self.what, self.total, self.done, self.first = what, total, done, done
        self.began = self.last = time.monotonic()
        self.bar.reset(self.task, description=what, total=total, completed=done, visible=True, note="")

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.done += steps
        if self.console.is_terminal:
            self.note = note or self.note
            self.bar.update(self.task, advance=steps, note=self.note)
        elif (now := time.monotonic()) - self.last >= min(max(1.0, (now - self.began) / 3), 10.0):
            self.last = now
            place = f"{self.done}"
            if self.total is not None:
                left = (now - self.began) / max(1, self.done - self.first) * (self.total - self.done)
                place = f"{self.done} of {self.total}, {left:.0f} s left"
            self.console.print(f"{self.what}: {place} {note}", highlight=False)

    def say(self, line: str) -> None:
        self.console.print(line, highlight=False, soft_wrap=True)


def reporter(show: bool) -> Reporter:
    """Shown on standard error, or silent."""
    return Shown() if show else Silent()
