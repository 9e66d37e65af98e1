"""Progress lines in a log and bars on a terminal."""

import io

import pytest
from rich.console import Console

from groundup.artifacts.progress import BarProgress, LineProgress, ProgressTask


@pytest.mark.parametrize(
    ("total", "before", "done", "seconds", "line"),
    [
        (200, 0, 50, 10, "work:  25% of 200 steps, 5/s, 0:30 left"),
        (200, 40, 50, 10, "work:  25% of 200 steps, 1/s, 2:30 left"),  # earlier work does not count for the rate
        (60, 0, 5, 60, "work:   8% of 60 steps, 12.0 s each, 11:00 left"),
        (60, 0, 0, 5, "work:   0% of 60 steps"),
        (None, 0, 25_000, 5, "work: 25.0k steps, 5000/s"),
    ],
)
def test_line_has_percentage_rate_and_remaining_time(total, before, done, seconds, line):
    task = ProgressTask("work", total, "steps")
    task.started_at = 100.0
    task.resume_at(before)
    task.advance(done - before)
    task.set_status("loss 3.2")
    assert task.format_line(100.0 + seconds) == line


def test_log_line_ends_with_the_status(monkeypatch):
    monkeypatch.setattr("groundup.artifacts.progress.LOG_INTERVAL_SECONDS", 0.0)
    stream = io.StringIO()
    with LineProgress(stream).task("work", 4, "steps") as task:
        task.advance()
        task.set_status("loss 3.2")
    lines = stream.getvalue().splitlines()
    assert any(line.startswith("work:  25% of 4 steps") and line.endswith(", loss 3.2") for line in lines)
    assert lines[-1].startswith("work: 1 steps in 0:0")


@pytest.mark.parametrize("width", [20, 45, 80, 120])
def test_bar_fits_the_terminal_and_escapes_markup(width):
    progress = BarProgress()
    progress.console = Console(file=io.StringIO(), width=width, record=True)
    with progress.task("work [bold]", 748, "steps") as task:
        task.advance(100)
        task.set_status("loss 3.2, [red]1,282[/] tokens/s, " + "word " * 40)
        progress.console.print(task)
    shown = progress.console.export_text().splitlines()
    assert max(map(len, shown)) <= width
    if width >= 80:
        assert any("13% of 748 steps" in line for line in shown)
        assert any("[red]1,282[/] tokens/s" in line for line in shown)
