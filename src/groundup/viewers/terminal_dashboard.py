"""Training dashboard in a terminal: live, or a single frame if the output is not a terminal."""

import shutil
import sys

from rich.console import Console
from rich.text import Text

from groundup.viewers.alternate_screen import AlternateScreen, alternate_screen
from groundup.viewers.braille_canvas import BrailleCanvas, ticks
from groundup.viewers.dashboard import Dashboard, MetricPanel, build_dashboard, format_tick
from groundup.viewers.run_reader import RunReader

REFRESH_SECONDS = 1.0
"""Time between two reads of the files."""
SOFT, NAME, CURVE, FAINT = "dim", "bold", "cyan", "bright_black"
MIN_PANEL_LINES, MIN_PANEL_COLUMNS = 4, 34
"""Minimum size of a panel; wider terminals show panels side by side."""
PIPE_SIZE = (100, 36)
"""Columns and lines of a frame for a pipe."""
KEYS_HELP, SWITCH_HELP = " q quit", " · tab next stage"


def show_dashboard(reader: RunReader) -> None:
    """Show the dashboard until the user quits, or one frame without a terminal."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        with alternate_screen() as screen:
            _live(reader, screen)
        return
    reader.refresh()
    console = Console(highlight=False, width=shutil.get_terminal_size(PIPE_SIZE).columns)
    for line in render_frame(build_dashboard(reader), console.width, PIPE_SIZE[1]):
        line.rstrip()
        console.print(line, soft_wrap=True)


def _live(reader: RunReader, screen: AlternateScreen) -> None:
    while True:
        reader.refresh()
        width, height = screen.size()
        names, now = list(reader.trainings()), reader.current_stage()
        foot = Text(KEYS_HELP + (SWITCH_HELP if len(names) > 1 else ""), SOFT)
        screen.draw([*render_frame(build_dashboard(reader, 4 * width), width, height - 1), foot][:height])
        for key in screen.read_keys(REFRESH_SECONDS):
            if key in (b"q", b"Q", b"\x04", b"\x1b"):
                return
            if key == b"\t" and now in names:
                reader.requested_stage = names[(names.index(now) + 1) % len(names)]


def render_frame(dashboard: Dashboard, width: int, height: int) -> list[Text]:
    """One frame: at most `height` lines of at most `width` cells."""
    title, state = Text(f" {dashboard.title}", NAME), Text(f" {dashboard.status}")
    heads = [Text.assemble(title, " ", state)]
    if heads[0].cell_len > width:
        heads = [title, state]
    done = round((dashboard.progress or 0) * width)
    lines = [*heads, Text.assemble(("━" * done, CURVE), ("─" * (width - done), SOFT))]
    rows = _panel_rows(dashboard.panels, width, height - len(lines))
    free_lines = height - len(lines)
    last = max((panel.curve[0][-1] for panel in dashboard.panels), default=1.0)
    for number, row in enumerate(rows):
        # the first panel, the loss, gets two units of height if there are several rows, and the remainder
        units = len(rows) + (len(rows) > 1)
        panel_height = free_lines // units if number else free_lines - (len(rows) - 1) * (free_lines // units)
        lines += _join_columns(
            [_render_panel(panel, width // len(row) - 1, panel_height, last) for panel in row], width // len(row)
        )
    for line in lines:
        line.truncate(width, overflow="ellipsis")
        line.no_wrap = True
    return lines[:height]


def _panel_rows(panels: list[MetricPanel], width: int, free_lines: int) -> list[list[MetricPanel]]:
    """Panels in rows, as many as fit; the loss has a row of its own."""
    loss, others = panels[:1], panels[1:]
    num_rows = -(-len(others) // max(1, width // MIN_PANEL_COLUMNS))
    per_row = max(1, -(-len(others) // max(1, num_rows)))
    rows = [loss, *(others[start : start + per_row] for start in range(0, len(others), per_row))]
    return [row for row in rows if row][: max(1, free_lines // MIN_PANEL_LINES - 1)]


def _render_panel(panel: MetricPanel, width: int, height: int, last: float) -> list[Text]:
    """One panel with axes up to step `last`: `height` lines of `width` cells."""
    at, values = panel.curve
    head = Text.assemble(
        (f" {panel.name} ", NAME), (panel.value, f"{NAME} {CURVE}"), (f" {panel.unit}" if panel.unit else "", SOFT)
    )
    low, high = _range(panel)
    tick_values = ticks(low, high, max(2, (height - 2) // 2))
    labels = [format_tick(panel, value) for value in tick_values]
    margin = max([len(label) for label in labels], default=0) + 2
    canvas = BrailleCanvas(max(2, width - margin - 1), max(1, height - 2), 1, last, low, high)
    canvas.draw_points(*panel.raw_points, FAINT)
    canvas.draw_curve(at, values, CURVE)
    axis_labels = {canvas.line_at(value): label for value, label in zip(tick_values, labels, strict=True)}
    lines = [head]
    for number, plotted in enumerate(canvas.lines()):
        label = axis_labels.get(number)
        axis = f" {label or '':>{margin - 2}}{'┤' if label else '│'}"
        lines.append(Text(axis, SOFT).append_text(plotted))
    ends = "1", f"{last:,.0f}"
    return [*lines, Text(" " * margin + ends[0] + ends[1].rjust(canvas.width - len(ends[0])), SOFT)]


def _range(panel: MetricPanel) -> tuple[float, float]:
    """Range of the vertical axis: the curve, and the raw points without extreme outliers."""
    values = sorted([*panel.curve[1], *panel.raw_points[1]])
    outliers = len(values) // 100 if panel.raw_points[1] else 0
    low, high = min(values[outliers], *panel.curve[1]), max(values[-1 - outliers], *panel.curve[1])
    low = low if panel.y_min is None else panel.y_min
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _join_columns(panels: list[list[Text]], width: int) -> list[Text]:
    lines = []
    for row in zip(*panels, strict=True):
        line = Text()
        for part in row:
            part.truncate(width, pad=True)
            line.append_text(part)
        lines.append(line)
    return lines
