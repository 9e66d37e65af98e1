"""What is to be seen of a training: one line of words, and a few curves. Both faces, terminal and page, draw this."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy

from groundup.artifacts.progress import format_duration
from groundup.report import formatting
from groundup.report.curves import downsample, smooth
from groundup.viewers.run_reader import RunReader, StepColumns, stage_name

RECENT_STEPS = 50
"""Steps whose pace says how long the rest will take."""
QUIET_SECONDS = 30.0
"""Seconds without a step, and ten steps' time, after which it is said: nobody can see from files why."""

Points = tuple[list[float], list[float]]
NUMBER_FORMATS: dict[str, Callable[[float], str]] = {
    "places": lambda value: f"{value:.3f}",
    "digits": lambda value: f"{value:.2g}",
    "count": formatting.short_count,
    "bytes": formatting.byte_size,
}
"""How a value is said; page/watch.js says it alike."""
ZEROS = re.compile(r"\.?0+(?= |$)")


@dataclass(frozen=True)
class MetricPanel:
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
    raw_points: Points
    show_markers: bool
    y_min: float | None
    number_format: str


@dataclass(frozen=True)
class Dashboard:
    """A training at one moment.

    Attributes:
        title: the run and the stage.
        state: how far it is, in words.
        share: how far it is, from 0 to 1; None where that is not known.
        finished: whether all is done.
    """

    title: str
    status: str
    progress: float | None
    finished: bool
    panels: list[MetricPanel]


def build_dashboard(journals: RunReader, max_points: int = 800) -> Dashboard:
    """What `journals` has read so far, with at most `most` points a curve."""
    folder = journals.folder
    name = journals.plan.get("name") or journals.path.resolve().name
    if folder is None:
        stage = journals.running_stage()
        state = f"no step yet; {stage} is being made" if stage else "no step yet"
        return Dashboard(name, state, None, False, [])
    title = f"{name} · {folder.name.removesuffix('.partial')}"
    finished = folder.suffix != ".partial"
    state, share = _status(journals, finished)
    return Dashboard(title, state, share, finished, _panels(journals, max_points))


def _status(journals: RunReader, finished: bool) -> tuple[str, float | None]:
    steps = journals.steps.columns["step"]
    done = int(steps[-1]) + 1 if steps else 0
    if finished:
        return f"finished after {formatting.pluralize(done, 'step')}", 1.0
    assert journals.folder is not None
    planned = journals.plan.get("train", {}).get("steps") if stage_name(journals.folder) == "base" else None
    parts, share = [f"step {done:,}"], None
    pace = [
        seconds for seconds in journals.steps.columns["seconds"][-RECENT_STEPS:] if math.isfinite(seconds)
    ]
    if planned:
        share = min(1.0, done / planned)
        parts = [f"step {done:,} of {planned:,}", f"{100 * share:.0f}%"]
        if pace:
            parts.append(f"{format_duration(median(pace) * max(0, planned - done))} left")
    if journals.seconds_since_last_step() > max(QUIET_SECONDS, 10 * median(pace or [0])):
        parts.append(f"no step for {format_duration(journals.seconds_since_last_step())}")
    return " · ".join(parts), share


def _panels(journals: RunReader, most: int) -> list[MetricPanel]:
    steps, probes = journals.steps, journals.evaluations
    bits = bool(numpy.isfinite(numpy.array(probes.columns["bits_per_byte"])).any())
    held_out = ("bits_per_byte", "bits per byte") if bits else ("loss", "nats per token")
    found = [
        _panel("training loss", "nats per token", steps, "loss", "places", most),
        _panel("held-out text", held_out[1], probes, held_out[0], "places", most, show_markers=True),
        _panel("learning rate", "", steps, "learning_rate", "digits", most, raw=True, y_min=0),
        _panel("speed", "tokens/s", steps, "tokens_per_second", "count", most, y_min=0),
        _panel("memory", "", steps, "memory", "bytes", most, raw=True, y_min=0),
    ]
    return [panel for panel in found if panel is not None]


def format_tick(panel: MetricPanel, value: float) -> str:
    """A round value beside the axis: 2.500 -> "2.5"."""
    told = NUMBER_FORMATS[panel.number_format](value).replace(formatting.NO_BREAK_SPACE, " ")
    return ZEROS.sub("", told) if "." in told else told


def _panel(
    name: str, unit: str, columns: StepColumns, column: str, number_format: str, max_points: int, *,
    raw: bool = False, show_markers: bool = False, y_min: float | None = None,
) -> MetricPanel | None:  # fmt: skip
    """`raw` and `marked` curves stay as they are, others are smoothed; None when there is no point."""
    at, values = numpy.array(columns.columns["step"]), numpy.array(columns.columns[column])
    at = at + (not show_markers)  # probes tell how many steps were done, steps their number from 0
    at, values = at[numpy.isfinite(values)], values[numpy.isfinite(values)]
    if not len(at):
        return None
    drawn = values if raw or show_markers else smooth(values)
    faint = ([], []) if drawn is values else downsample(at, values, max_points)
    told = NUMBER_FORMATS[number_format](drawn[-1]).replace(formatting.NO_BREAK_SPACE, " ")
    return MetricPanel(
        name, unit, told, downsample(at, drawn, max_points), faint, show_markers, y_min, number_format
    )
