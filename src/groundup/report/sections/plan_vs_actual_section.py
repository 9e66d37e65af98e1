"""Report section: planned and actual numbers of the run."""

from collections.abc import Callable
from typing import Any

from groundup.plan.plan_table import format_flops
from groundup.report import formatting, training_plots
from groundup.report.elements import Cell, Element, figure, paragraph, section, table
from groundup.report.run_data import peak_memory, stage_metrics, stage_seconds
from groundup.stages import STAGES

DASH = "–"


def plan_vs_actual_section(run_data: dict[str, Any]) -> dict[str, Any] | None:
    plan = run_data["plan"]
    rows = _rows(run_data) if "train" in plan else []
    if not rows and not run_data["stages"]:
        return None
    blocks: list[Element | None] = []
    if rows:
        blocks += [
            paragraph("Estimates of the plan, derived from the recipe before the run, and the actual values."),
            table(("", "planned", "actual"), rows, "Planned and actual values."),
        ]
    return section("Plan and outcome", [*blocks, _stage_table(run_data), _time(run_data)])


def _rows(run_data: dict[str, Any]) -> list[list[Cell]]:
    plan, base = run_data["plan"], stage_metrics(run_data, "base")
    train, planned_seconds, seconds = plan["train"], 3600 * plan["hours"], stage_seconds(run_data, "base")
    tokens = base.get("tokens")
    speed = base.get("speed", {}).get("tokens_per_second") or (tokens / seconds if tokens and seconds else None)
    rows: list[tuple[str, Callable[[Any], str], Any, Any]] = [
        (
            "vocabulary",
            "{:,}".format,
            plan["model"]["vocab_size"],
            stage_metrics(run_data, "tokenizer").get("vocab_size"),
        ),
        ("parameters", formatting.count, plan["parameters"]["total"], base.get("parameters")),
        ("training tokens", formatting.count, train["tokens"], tokens),
        (
            "tokens per parameter",
            formatting.three_digits,
            plan["tokens_per_parameter"],
            tokens and tokens / base["parameters"],
        ),
        ("optimizer steps", "{:,}".format, train["steps"], base.get("steps")),
        (
            "training FLOPs",
            format_flops,
            plan["total_flops"],
            tokens and plan["total_flops"] * tokens / train["tokens"],
        ),
        ("pretraining time", formatting.duration, planned_seconds, seconds),
        ("tokens per second", formatting.count, planned_seconds and train["tokens"] / planned_seconds, speed),
    ]
    if plan.get("memory"):
        peak = peak_memory(run_data)
        rows.append(("peak memory per device", formatting.byte_size, plan["memory"]["total"], peak or "not measured"))
    if plan.get("cost") is not None:
        rows.append(("cost", "{:,.2f}".format, plan["cost"], seconds and plan["cost"] * seconds / planned_seconds))
    return [
        [name, text(planned), actual if isinstance(actual, str) else text(actual) if actual else DASH]
        for name, text, planned, actual in rows
    ]


def _stage_table(run_data: dict[str, Any]) -> Element | None:
    """Planned and actual time of the stages of each table of the recipe; None if no time was planned."""
    planned = run_data["plan"].get("stage_seconds") or {}
    actual: dict[str, float] = {}
    for stage in STAGES:
        if stage.name in run_data["stages"]:
            seconds = stage_seconds(run_data, stage.name) or 0.0
            is_copy = stage.name == "base" and "train" not in run_data["stages"]["base"]["sections"]
            name = "base" if is_copy else stage.section
            actual[name] = actual.get(name, 0.0) + seconds
    both = [name for name in planned if name in actual]
    if not both:
        return None
    rows = [
        (
            f"[{name}]",
            formatting.duration(planned[name]),
            formatting.duration(actual[name]),
            _error(planned[name], actual[name]),
        )
        for name in both
    ]
    totals = sum(planned[name] for name in both), sum(actual[name] for name in both)
    rows.append(("total", formatting.duration(totals[0]), formatting.duration(totals[1]), _error(*totals)))
    caption = "Planned and actual time of the stages, by table of the recipe; above 0, the plan said more."
    return table(("table", "planned", "actual", "error"), rows, caption, total=True)


def _error(planned: float, actual: float) -> str:
    return f"{100 * (planned / actual - 1):+.0f}%" if actual else DASH


def _time(run_data: dict[str, Any]) -> Element | None:
    spent = [(stage["folder"], stage["provenance"].get("seconds", 0.0), None) for stage in run_data["stages"].values()]
    if len(spent) < 2:
        return None
    total = sum(amount for _, amount, _ in spent)
    name, longest, _ = max(spent, key=lambda row: row[1])
    return figure(
        "time",
        training_plots.plot_bars(spent, format_value=formatting.duration),
        f"Duration of each stage: {formatting.duration(total)} in total, {formatting.percent(longest, total)} of it in {name}.",
        "Bars: " + ", ".join(f"{folder} {formatting.duration(amount)}" for folder, amount, _ in spent),
    )
