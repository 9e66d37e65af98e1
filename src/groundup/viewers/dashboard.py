"""Training dashboard as data: a status line and metric panels, for the terminal and the web page."""

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
"""Steps for the estimate of the remaining time."""
QUIET_SECONDS = 30.0
"""Time without a step, beside ten step times, after which the status reports it."""

Points = tuple[list[float], list[float]]
NUMBER_FORMATS: dict[str, Callable[[float], str]] = {
    "places": lambda value: f"{value:.3f}",
    "digits": lambda value: f"{value:.2g}",
    "count": formatting.short_count,
    "bytes": formatting.byte_size,
}
"""Number formats, also implemented in dashboard_page/watch.js."""
ZEROS = re.compile(r"\.?0+(?= |$)")


@dataclass(frozen=True)
class MetricPanel:
    """One metric over steps.

    Attributes:
        value: the last value as text.
        curve, raw_points: steps and values after and before smoothing; no raw points without smoothing.
        show_markers: whether to mark the points, which are few.
        y_min: lower end of the vertical axis; None: from the values.
        number_format: a key of NUMBER_FORMATS.
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
    """State of a training stage; `progress` is from 0 to 1, or None if the number of steps is unknown."""

    title: str
    status: str
    progress: float | None
    finished: bool
    panels: list[MetricPanel]


def build_dashboard(reader: RunReader, max_points: int = 800) -> Dashboard:
    """The dashboard of the records read so far, with at most `max_points` points per curve."""
    folder = reader.folder
    name = reader.plan.get("name") or reader.path.resolve().name
    if folder is None:
        stage = reader.running_stage()
        state = f"no step yet; running {stage}" if stage else "no step yet"
        return Dashboard(name, state, None, False, [])
    title = f"{name} · {folder.name.removesuffix('.partial')}"
    finished = folder.suffix != ".partial"
    state, progress = _status(reader, finished)
    return Dashboard(title, state, progress, finished, _panels(reader, max_points))


def _status(reader: RunReader, finished: bool) -> tuple[str, float | None]:
    steps = reader.steps.columns["step"]
    completed = int(steps[-1]) + 1 if steps else 0
    if finished:
        return f"finished after {formatting.pluralize(completed, 'step')}", 1.0
    assert reader.folder is not None
    planned = reader.plan.get("train", {}).get("steps") if stage_name(reader.folder) == "base" else None
    parts, progress = [f"step {completed:,}"], None
    step_seconds = [seconds for seconds in reader.steps.columns["seconds"][-RECENT_STEPS:] if math.isfinite(seconds)]
    if planned:
        progress = min(1.0, completed / planned)
        parts = [f"step {completed:,} of {planned:,}", f"{100 * progress:.0f}%"]
        if step_seconds:
            parts.append(f"{format_duration(median(step_seconds) * max(0, planned - completed))} left")
    if reader.seconds_since_last_step() > max(QUIET_SECONDS, 10 * median(step_seconds or [0])):
        parts.append(f"no step for {format_duration(reader.seconds_since_last_step())}")
    return " · ".join(parts), progress


def _panels(reader: RunReader, max_points: int) -> list[MetricPanel]:
    steps, evaluations = reader.steps, reader.evaluations
    bits = bool(numpy.isfinite(numpy.array(evaluations.columns["bits_per_byte"])).any())
    column, unit = ("bits_per_byte", "bits per byte") if bits else ("loss", "nats per token")
    stage = None if reader.folder is None else stage_name(reader.folder)
    compared = {"preference": "chosen answers preferred", "reinforcement": "problems solved"}.get(
        stage or "", "accuracy"
    )
    loss_unit = "" if stage in ("preference", "reinforcement") else "nats per token"
    panels = [
        _panel("reward", "", steps, "reward", "places", max_points),
        _panel("training loss", loss_unit, steps, "loss", "places", max_points),
        _panel("validation loss", loss_unit and unit, evaluations, column, "places", max_points, show_markers=True),
        _panel(f"held-out {compared}", "", evaluations, "accuracy", "places", max_points, show_markers=True),
        _panel("held-out margin of rewards", "", evaluations, "margin", "places", max_points, show_markers=True),
        _panel("held-out reward", "", evaluations, "reward", "places", max_points, show_markers=True),
        _panel("KL divergence", "nats per token", steps, "kl", "places", max_points),
        _panel("answer length", "tokens", steps, "answer_tokens", "digits", max_points),
        _panel("learning rate", "", steps, "learning_rate", "digits", max_points, raw=True, y_min=0),
        _panel("speed", "tokens/s", steps, "tokens_per_second", "count", max_points, y_min=0),
        _panel("memory", "", steps, "memory", "bytes", max_points, raw=True, y_min=0),
    ]
    return [panel for panel in panels if panel is not None]


def format_tick(panel: MetricPanel, value: float) -> str:
    """Axis label of a round value: 2.500 -> "2.5"."""
    text = NUMBER_FORMATS[panel.number_format](value).replace(formatting.NO_BREAK_SPACE, " ")
    return ZEROS.sub("", text) if "." in text else text


def _panel(
    name: str, unit: str, columns: StepColumns, column: str, number_format: str, max_points: int, *,
    raw: bool = False, show_markers: bool = False, y_min: float | None = None,
) -> MetricPanel | None:  # fmt: skip
    """Panel of a column, smoothed unless `raw` or `show_markers`; None without points."""
    at, values = numpy.array(columns.columns["step"]), numpy.array(columns.columns[column])
    at = at + (not show_markers)  # evaluations count completed steps, step records count from 0
    at, values = at[numpy.isfinite(values)], values[numpy.isfinite(values)]
    if not len(at):
        return None
    plotted = values if raw or show_markers else smooth(values)
    faint = ([], []) if plotted is values else downsample(at, values, max_points)
    text = NUMBER_FORMATS[number_format](plotted[-1]).replace(formatting.NO_BREAK_SPACE, " ")
    return MetricPanel(name, unit, text, downsample(at, plotted, max_points), faint, show_markers, y_min, number_format)
