"""Progress display: bars with rate and remaining time on a terminal, one line every few seconds in a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

LOG_INTERVAL_SECONDS = 10.0


class ProgressTask:
    """One long operation: `advance` counts finished units, `set_status` sets the text behind the bar."""

    def __init__(self, name: str, total: float | None, unit: str):
        self.name, self.total, self.unit = name, total, unit
        self.completed, self.status = 0.0, ""
        self.started_at: float | None = None
        self._resumed_at = 0.0

    def resume_at(self, completed: float) -> None:
        """Continue interrupted work: `completed` units are done already and do not count for the rate."""
        self.completed = self._resumed_at = completed
        self._refresh()

    def advance(self, amount: float = 1) -> None:
        """Count `amount` more units."""
        self.completed += amount
        self._refresh()

    def move_to(self, completed: float) -> None:
        """Set the finished units; a smaller number than before is ignored."""
        self.completed = max(self.completed, completed)
        self._refresh()

    def set_status(self, status: str) -> None:
        """Set the text behind the bar, for example the current loss."""
        self.status = status
        self._refresh()

    def _refresh(self) -> None:
        pass

    def format_line(self, now: float) -> str:
        """Percentage, rate and remaining time as one line."""
        elapsed = max(now - (self.started_at or now), 1e-9)
        rate = (self.completed - self._resumed_at) / elapsed
        parts = [f"{self.name}: {_format_quantity(self.completed)}"]
        if self.total:
            parts = [f"{self.name}: {100 * self.completed / self.total:3.0f}% of {_format_quantity(self.total)}"]
        parts[0] += f" {self.unit}"
        if rate > 0:
            parts.append(f"{_format_quantity(rate)}/s" if rate >= 1 else f"{1 / rate:.1f} s each")
        if self.total and rate > 0:
            parts.append(f"{format_duration(max(self.total - self.completed, 0) / rate)} left")
        return ", ".join(parts)


class Progress:
    """Creates tasks. This base class shows nothing: the default in Python and in tests."""

    @contextmanager
    def task(self, name: str, total: float | None = None, unit: str = "") -> Iterator[ProgressTask]:
        """Show one operation while the block runs."""
        yield ProgressTask(name, total, unit)

    def log(self, text: str) -> None:
        """Print a line above the bars."""


class LineProgress(Progress):
    """Lines for logs and pipes."""

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
    """A bar on a terminal, with the status beneath it."""

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
                fraction = min(self.completed / self.total, 1.0) if self.total else None
                bar = ProgressBar(100, 100 * (fraction or 0), width=28, pulse=fraction is None)
                line = self.format_line(time.monotonic()).split(": ", 1)[1]
                numbers, status = (
                    Text(text, style, no_wrap=True, overflow="ellipsis")
                    for text, style in ((line, ""), (f"  {self.status}", "dim"))
                )
                row.add_row(f"  {self.name}", bar, numbers)
                return Group(row, status) if self.status else Group(row)

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
"""Values of the knob machine.progress."""


def _format_quantity(value: float) -> str:
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.1f}{letter}"
    return f"{value:.0f}" if abs(value) >= 10 or value == int(value) else f"{value:.1f}"


def format_duration(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
