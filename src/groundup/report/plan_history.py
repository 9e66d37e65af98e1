"""Error of the plans of all runs in a folder: planned time and memory of pretraining beside what was measured."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import processor_name
from groundup.report import formatting
from groundup.report.run_data import collect_run, damaged_metrics, peak_memory, stage_metrics, stage_seconds

RUN_FOLDERS = ("*", "*/sweep/*", "*/ladder/*")
"""Where runs lie below the parent folder of all runs."""


@dataclass(frozen=True)
class PlannedRun:
    """Planned and measured figures of one pretraining; None: not planned, or not measured.

    Attributes:
        planned_seconds: for the steps that were taken.
        is_here: whether this kind of processor ran it.
    """

    run: str
    hardware: str
    processor: str
    planned_seconds: float
    seconds: float
    planned_bytes: float | None
    bytes: float | None
    is_here: bool

    @property
    def time_error(self) -> float:
        return self.planned_seconds / self.seconds - 1

    @property
    def memory_error(self) -> float | None:
        return self.planned_bytes / self.bytes - 1 if self.planned_bytes and self.bytes else None


def read_history(runs: Path) -> list[PlannedRun]:
    """The runs below `runs` whose pretraining is complete. Raises UserError if there are none."""
    found = sorted({path.parent for pattern in RUN_FOLDERS for path in runs.glob(f"{pattern}/plan.json")})
    history = [planned for folder in found for planned in _planned_run(folder, runs)]
    if not history:
        raise UserError(f"{runs}: no run with a complete pretraining", hint="--runs DIR names the parent of all runs")
    return history


def _planned_run(folder: Path, runs: Path) -> Iterator[PlannedRun]:
    data = collect_run(folder)
    with damaged_metrics(folder):
        plan, base, seconds = data["plan"], stage_metrics(data, "base"), stage_seconds(data, "base")
        if "train" not in plan or not seconds or not base.get("tokens"):
            return
        processor = data["stages"]["base"]["provenance"].get("processor", "")
        yield PlannedRun(
            run=str(folder.relative_to(runs)),
            hardware=plan["budget"]["hardware"],
            processor=processor,
            planned_seconds=3600 * plan["hours"] * base["tokens"] / plan["train"]["tokens"],
            seconds=seconds,
            planned_bytes=plan["memory"]["total"],
            bytes=peak_memory(data),
            is_here=processor == processor_name(),
        )


def summarize_errors(history: list[PlannedRun]) -> dict[str, Any]:
    """Median and largest error of time and memory over the runs of this kind of processor, and all rows."""
    here = [row for row in history if row.is_here]
    summary: dict[str, Any] = {"processor": processor_name(), "runs": len(here), "elsewhere": len(history) - len(here)}
    for name in ("time", "memory"):
        errors = [error for row in here if (error := getattr(row, f"{name}_error")) is not None]
        summary[name] = {
            "runs": len(errors),
            "median": median(errors) if errors else None,
            "median_size": median(map(abs, errors)) if errors else None,
            "largest": max(errors, key=abs) if errors else None,
        }
    summary["rows"] = [
        asdict(row) | {"time_error": row.time_error, "memory_error": row.memory_error} for row in history
    ]
    return summary


def format_history(history: list[PlannedRun]) -> str:
    """The runs as a table, then the errors of this machine: above 0, the plan said more than was measured."""
    header = ("run", "hardware", "time planned", "taken", "error", "memory planned", "measured", "error")
    rows = [
        (
            row.run + ("" if row.is_here else " (elsewhere)"), row.hardware, formatting.duration(row.planned_seconds),
            formatting.duration(row.seconds), _percent(row.time_error), _bytes(row.planned_bytes), _bytes(row.bytes),
            _percent(row.memory_error),
        )
        for row in history
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if index < 2 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (header, *rows)
    ]
    summary = summarize_errors(history)
    lines += ["", f"this machine ({summary['processor']}), {formatting.pluralize(summary['runs'], 'run')}:"]
    for name in ("time", "memory"):
        if (errors := summary[name])["runs"]:
            lines.append(
                f"  {name}: typical error {_percent(errors['median_size'], signed=False)}, median {_percent(errors['median'])}, "
                f"largest {_percent(errors['largest'])}, of {formatting.pluralize(errors['runs'], 'run')}"
            )
    return "\n".join(line.rstrip() for line in lines).replace(formatting.NO_BREAK_SPACE, " ")


def _percent(error: float | None, *, signed: bool = True) -> str:
    return "–" if error is None else f"{100 * error:{'+' if signed else ''}.0f}%"


def _bytes(value: float | None) -> str:
    return "–" if not value else formatting.byte_size(value)
