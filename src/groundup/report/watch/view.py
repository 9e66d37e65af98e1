"""What is to be seen of a training: one line of words, and a few curves. Both faces, terminal and page, draw this."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy

from groundup.artifacts.progress import clock
from groundup.report import wording
from groundup.report.curves import smooth, thin
from groundup.report.watch.journals import Columns, Journals, stage_name

RECENT = 50
"""Steps whose pace says how long the rest will take."""
QUIET = 30.0
"""Seconds without a step, and ten steps' time, after which it is said: nobody can see from files why."""

Points = tuple[list[float], list[float]]
FORMS: dict[str, Callable[[float], str]] = {
    "places": lambda value: f"{value:.3f}",
    "digits": lambda value: f"{value:.2g}",
    "count": wording.short_count,
    "bytes": wording.size,
}
"""How a value is said; page/watch.js says it alike."""
ZEROS = re.compile(r"\.?0+(?= |$)")


@dataclass(frozen=True)
class Panel:
    """One curve over the steps done.

    Attributes:
        name, unit: what it shows.
        value: its last point in words.
        curve: where it goes, as steps and values.
        faint: single values that the curve smooths; empty where it does not.
        marked: whether its points are few and each is a measurement.
        low: the least that the vertical axis shows; None: what fits.
        form: how its values are said, a key of FORMS.
    """

    name: str
    unit: str
    value: str
    curve: Points
    faint: Points
    marked: bool
    low: float | None
    form: str


@dataclass(frozen=True)
class View:
    """A training at one moment.

    Attributes:
        title: the run and the stage.
        state: how far it is, in words.
        share: how far it is, from 0 to 1; None where that is not known.
        finished: whether all is done.
    """

    title: str
    state: str
    share: float | None
    finished: bool
    panels: list[Panel]


def view(journals: Journals, most: int = 800) -> View:
    """What `journals` has read so far, with at most `most` points a curve."""
    folder = journals.folder
    name = journals.plan.get("name") or journals.path.resolve().name
    if folder is None:
        stage = journals.under_way()
        state = f"no step yet; {stage} is being made" if stage else "no step yet"
        return View(name, state, None, False, [])
    title = f"{name} · {folder.name.removesuffix('.partial')}"
    finished = folder.suffix != ".partial"
    state, share = _state(journals, finished)
    return View(title, state, share, finished, _panels(journals, most))


def _state(journals: Journals, finished: bool) -> tuple[str, float | None]:
    steps = journals.steps.of["step"]
    done = int(steps[-1]) + 1 if steps else 0
    if finished:
        return f"finished after {wording.plural(done, 'step')}", 1.0
    assert journals.folder is not None
    planned = journals.plan.get("train", {}).get("steps") if stage_name(journals.folder) == "base" else None
    parts, share = [f"step {done:,}"], None
    pace = [seconds for seconds in journals.steps.of["seconds"][-RECENT:] if math.isfinite(seconds)]
    if planned:
        share = min(1.0, done / planned)
        parts = [f"step {done:,} of {planned:,}", f"{100 * share:.0f}%"]
        if pace:
            parts.append(f"{clock(median(pace) * max(0, planned - done))} left")
    if journals.age() > max(QUIET, 10 * median(pace or [0])):
        parts.append(f"no step for {clock(journals.age())}")
    return " · ".join(parts), share


def _panels(journals: Journals, most: int) -> list[Panel]:
    steps, probes = journals.steps, journals.probes
    bits = bool(numpy.isfinite(numpy.array(probes.of["bits_per_byte"])).any())
    held_out = ("bits_per_byte", "bits per byte") if bits else ("loss", "nats per token")
    found = [
        _panel("training loss", "nats per token", steps, "loss", "places", most),
        _panel("held-out text", held_out[1], probes, held_out[0], "places", most, marked=True),
        _panel("learning rate", "", steps, "learning_rate", "digits", most, raw=True, low=0),
        _panel("speed", "tokens/s", steps, "tokens_per_second", "count", most, low=0),
        _panel("memory", "", steps, "memory", "bytes", most, raw=True, low=0),
    ]
    return [panel for panel in found if panel is not None]


def mark(panel: Panel, value: float) -> str:
    """A round value beside the axis: 2.500 -> "2.5"."""
    told = FORMS[panel.form](value).replace(wording.SPACE, " ")
    return ZEROS.sub("", told) if "." in told else told


def _panel(
    name: str, unit: str, columns: Columns, column: str, form: str, most: int, *,
    raw: bool = False, marked: bool = False, low: float | None = None,
) -> Panel | None:  # fmt: skip
    """`raw` and `marked` curves stay as they are, others are smoothed; None when there is no point."""
    at, values = numpy.array(columns.of["step"]), numpy.array(columns.of[column])
    at = at + (not marked)  # probes tell how many steps were done, steps their number from 0
    at, values = at[numpy.isfinite(values)], values[numpy.isfinite(values)]
    if not len(at):
        return None
    drawn = values if raw or marked else smooth(values)
    faint = ([], []) if drawn is values else thin(at, values, most)
    told = FORMS[form](drawn[-1]).replace(wording.SPACE, " ")
    return Panel(name, unit, told, thin(at, drawn, most), faint, marked, low, form)
