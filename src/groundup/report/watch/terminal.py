"""The curves in a terminal: live, for whatever size it has, or as one still picture in a pipe."""

import shutil
import sys

from rich.console import Console
from rich.text import Text

from groundup.artifacts.screen import Screen, whole_screen
from groundup.report.watch.braille import Canvas, ticks
from groundup.report.watch.journals import Journals
from groundup.report.watch.view import Panel, View, mark, view

SECONDS = 1.0
"""Between two looks at the files."""
SOFT, NAME, CURVE, FAINT = "dim", "bold", "cyan", "bright_black"
SMALLEST, BESIDE = 4, 34
"""Lines that a picture needs; columns from which two stand side by side."""
STILL = (100, 36)
"""Columns and lines of a picture that goes into a pipe."""
FOOT, OTHERS = " q quit", " · tab another training"


def watch(journals: Journals) -> None:
    """Show the training until the user leaves; where there is no terminal, once."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        with whole_screen() as screen:
            _live(journals, screen)
        return
    journals.look()
    console = Console(highlight=False, width=shutil.get_terminal_size(STILL).columns)
    for line in still(view(journals), console.width, STILL[1]):
        line.rstrip()
        console.print(line, soft_wrap=True)


def _live(journals: Journals, screen: Screen) -> None:
    while True:
        journals.look()
        width, height = screen.size()
        names, now = list(journals.trainings()), journals.shown()
        foot = Text(FOOT + (OTHERS if len(names) > 1 else ""), SOFT)
        screen.draw([*still(view(journals, 4 * width), width, height - 1), foot][:height])
        for key in screen.wait(SECONDS):
            if key in (b"q", b"Q", b"\x04", b"\x1b"):
                return
            if key == b"\t" and now in names:
                journals.wanted = names[(names.index(now) + 1) % len(names)]


def still(seen: View, width: int, height: int) -> list[Text]:
    """At most `height` lines of at most `width` cells."""
    title, state = Text(f" {seen.title}", NAME), Text(f" {seen.state}")
    heads = [Text.assemble(title, " ", state)]
    if heads[0].cell_len > width:
        heads = [title, state]
    lines = [*heads, _bar(seen.share, width)]
    rows = _rows(seen.panels, width, height - len(lines))
    room = height - len(lines)
    last = max((panel.curve[0][-1] for panel in seen.panels), default=1.0)
    for number, row in enumerate(rows):
        # The first picture, the loss, gets what the division leaves over, and twice a share where there are several.
        shares = len(rows) + (len(rows) > 1)
        tall = room // shares if number else room - (len(rows) - 1) * (room // shares)
        lines += _beside(
            [_picture(panel, width // len(row) - 1, tall, last) for panel in row], width // len(row)
        )
    for line in lines:
        line.truncate(width, overflow="ellipsis")
        line.no_wrap = True
    return lines[:height]


def _rows(panels: list[Panel], width: int, room: int) -> list[list[Panel]]:
    """Which pictures stand beside which, for as many as there is room: the loss has a row of its own."""
    first, rest = panels[:1], panels[1:]
    rows = -(-len(rest) // max(1, width // BESIDE))
    each = -(-len(rest) // max(1, rows))
    found = [first, *(rest[start : start + each] for start in range(0, len(rest), max(1, each)))]
    return [row for row in found if row][: max(1, room // SMALLEST - 1)]


def _bar(share: float | None, width: int) -> Text:
    done = 0 if share is None else round(share * width)
    return Text.assemble(("━" * done, CURVE), ("─" * (width - done), SOFT))


def _picture(panel: Panel, width: int, height: int, last: float) -> list[Text]:
    """One curve under its name, with axes up to step `last`: `height` lines of `width` cells."""
    at, values = panel.curve
    head = Text.assemble(
        (f" {panel.name} ", NAME),
        (panel.value, f"{NAME} {CURVE}"),
        (f" {panel.unit}" if panel.unit else "", SOFT),
    )
    low, high = _range(panel)
    marks = ticks(low, high, max(2, (height - 2) // 2))
    labels = [mark(panel, value) for value in marks]
    margin = max([len(label) for label in labels], default=0) + 2
    canvas = Canvas(max(2, width - margin - 1), max(1, height - 2), 1, last, low, high)
    canvas.points(*panel.faint, FAINT)
    canvas.curve(at, values, CURVE)
    beside = {canvas.line_of(value): label for value, label in zip(marks, labels, strict=True)}
    lines = [head]
    for number, drawn in enumerate(canvas.lines()):
        label = beside.get(number)
        axis = f" {label or '':>{margin - 2}}{'┤' if label else '│'}"
        lines.append(Text(axis, SOFT).append_text(drawn))
    ends = "1", f"{last:,.0f}"
    return [*lines, Text(" " * margin + ends[0] + ends[1].rjust(canvas.width - len(ends[0])), SOFT)]


def _range(panel: Panel) -> tuple[float, float]:
    """What the vertical axis shows: the curve, and of the single values all but the wildest."""
    values = sorted([*panel.curve[1], *panel.faint[1]])
    spare = len(values) // 100 if panel.faint[1] else 0
    low, high = min(values[spare], *panel.curve[1]), max(values[-1 - spare], *panel.curve[1])
    low = low if panel.low is None else panel.low
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _beside(pictures: list[list[Text]], width: int) -> list[Text]:
    lines = []
    for row in zip(*pictures, strict=True):
        line = Text()
        for part in row:
            part.truncate(width, pad=True)
            line.append_text(part)
        lines.append(line)
    return lines
