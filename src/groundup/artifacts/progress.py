"""How far is it? A bar with rate and time left on a terminal; plain lines, one every few seconds, in a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

LOG_INTERVAL_SECONDS = 10.0


class ProgressTask:
    """One piece of long work. `advance` moves it; `note` sets the few words shown behind the bar."""

    def __init__(self, name: str, total: float | None, unit: str):
        self.name, self.total, self.unit = name, total, unit
        self.completed, self.status = 0.0, ""
        self.started_at: float | None = None
        self._resumed_at = 0.0

    def resume_at(self, completed: float) -> None:
        """Continue interrupted work: `done` units were finished by an earlier process and do not count for the rate."""
        self.completed = self._resumed_at = completed
        self._refresh()

    def advance(self, amount: float = 1) -> None:
        """`amount` more units are finished."""
        self.completed += amount
        self._refresh()

    def set_status(self, status: str) -> None:
        """Set the words shown behind the bar, such as the current loss."""
        self.status = status
        self._refresh()

    def _refresh(self) -> None:
        pass

    def format_line(self, now: float) -> str:
        """How far it is, as one plain line without the note."""
        elapsed = max(now - (self.started_at or now), 1e-9)
        rate = (self.completed - self._resumed_at) / elapsed
        parts = [f"{self.name}: {_format_quantity(self.completed)}"]
        if self.total:
            parts = [
                f"{self.name}: {100 * self.completed / self.total:3.0f}% of {_format_quantity(self.total)}"
            ]
        parts[0] += f" {self.unit}"
        if rate > 0:
            parts.append(f"{_format_quantity(rate)}/s" if rate >= 1 else f"{1 / rate:.1f} s each")
        if self.total and rate > 0:
            parts.append(f"{format_duration(max(self.total - self.completed, 0) / rate)} left")
        return ", ".join(parts)


class Progress:
    """Makes tasks. This base class is silent: tests and libraries get it when nobody asked for a display."""

    @contextmanager
    def task(self, name: str, total: float | None = None, unit: str = "") -> Iterator[ProgressTask]:
        """Show one piece of work while the block runs."""
        yield ProgressTask(name, total, unit)

    def log(self, text: str) -> None:
        """A line that stays on the screen."""


class LineProgress(Progress):
    """Plain lines for logs and pipes."""

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream or sys.stderr

    @contextmanager
    def task(self, name: str, total: float | None = None, unit: str = "") -> Iterator[ProgressTask]:
        progress = self

        class LineTask(ProgressTask):
            last_logged_at = 0.0

            def _refresh(self) -> None:
                now = time.monotonic()
                if now - self.last_logged_at >= LOG_INTERVAL_SECONDS:
                    self.last_logged_at = now
                    progress.log(", ".join(filter(None, (self.format_line(now), self.status))))

        task = LineTask(name, total, unit)
        task.started_at = task.last_logged_at = time.monotonic()
        yield task
        self.log(
            f"{name}: {_format_quantity(task.completed)} {unit} in {format_duration(time.monotonic() - task.started_at)}"
        )

    def log(self, text: str) -> None:
        print(text, file=self.stream, flush=True)


class BarProgress(Progress):
    """A moving bar for people at a terminal, with the note beneath it: it moves only when the work does."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True)

    @contextmanager
    def task(self, name: str, total: float | None = None, unit: str = "") -> Iterator[ProgressTask]:
        from rich.console import Group
        from rich.live import Live
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        class BarTask(ProgressTask):
            def __rich__(self) -> Group:
                row = Table.grid(padding=(0, 2))
                share = min(self.completed / self.total, 1.0) if self.total else None
                bar = ProgressBar(100, 100 * (share or 0), width=28, pulse=share is None)
                far = self.format_line(time.monotonic()).split(": ", 1)[1]
                far, note = (
                    Text(words, style, no_wrap=True, overflow="ellipsis")
                    for words, style in ((far, ""), (f"  {self.status}", "dim"))
                )
                row.add_row(f"  {self.name}", bar, far)
                return Group(row, note) if self.status else Group(row)

        task = BarTask(name, total, unit)
        task.started_at = time.monotonic()
        with Live(task, console=self.console, transient=True, refresh_per_second=4):
            yield task

    def log(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)


def auto_progress() -> Progress:
    """Bars when stderr is a terminal, lines when it is not."""
    return BarProgress() if sys.stderr.isatty() else LineProgress()


PROGRESS_KINDS = {"auto": auto_progress, "bars": BarProgress, "lines": LineProgress, "none": Progress}
"""What `machine.progress` may say."""


def _format_quantity(value: float) -> str:
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.1f}{letter}"
    return f"{value:.0f}" if abs(value) >= 10 or value == int(value) else f"{value:.1f}"


def format_duration(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
