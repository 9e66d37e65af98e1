"""Report section: planned and actual numbers of the run."""

from typing import Any

from groundup.plan.plan_table import format_flops
from groundup.report import formatting, training_plots
from groundup.report.elements import Cell, Element, figure, paragraph, section, table
from groundup.report.run_data import stage_metrics, stage_seconds

DASH = "–"


def plan_vs_actual_section(run_data: dict[str, Any]) -> dict[str, Any] | None:
    plan = run_data["plan"]
    rows = _rows(run_data) if "parameters" in plan else []
    if not rows and not run_data["stages"]:
        return None
    blocks: list[Element | None] = []
    if rows:
        blocks += [
            paragraph("Estimates of the plan, derived from the recipe before the run, and the actual values."),
            table(("", "planned", "actual"), rows, "Planned and actual values."),
        ]
    return section("Plan and outcome", [*blocks, _time(run_data)])


def _rows(run_data: dict[str, Any]) -> list[list[Cell]]:
    plan, base = run_data["plan"], stage_metrics(run_data, "base")
    train, seconds = plan["train"], stage_seconds(run_data, "base")
    vocabulary = stage_metrics(run_data, "tokenizer").get("vocab_size")
    rows: list[list[Cell]] = [
        ["vocabulary", f"{plan['model']['vocab_size']:,}", f"{vocabulary:,}" if vocabulary else DASH],
        ["parameters", formatting.count(plan["parameters"]["total"]), _count(base.get("parameters"))],
        ["training tokens", formatting.count(train["tokens"]), _count(base.get("tokens"))],
        [
            "tokens per parameter",
            formatting.three_digits(plan["tokens_per_parameter"]),
            formatting.three_digits(base["tokens"] / base["parameters"]) if base else DASH,
        ],
        ["optimizer steps", f"{train['steps']:,}", f"{base['steps']:,}" if base else DASH],
        [
            "training FLOPs",
            format_flops(plan["total_flops"]),
            format_flops(plan["total_flops"] * base["tokens"] / train["tokens"]) if base else DASH,
        ],
        [
            "pretraining time",
            formatting.duration(3600 * plan["hours"]),
            formatting.duration(seconds) if seconds else DASH,
        ],
    ]
    speed = base.get("speed", {}).get("tokens_per_second")
    planned_speed = train["tokens"] / (3600 * plan["hours"]) if plan["hours"] else 0
    rows.append(
        [
            "tokens per second",
            formatting.count(planned_speed),
            formatting.count(speed)
            if speed
            else formatting.count(base["tokens"] / seconds)
            if base and seconds
            else DASH,
        ]
    )
    if plan.get("memory"):
        rows.append(
            ["peak memory per device", formatting.byte_size(plan["memory"]["total"]), _size(_peak_memory(run_data))]
        )
    if plan.get("cost") is not None:
        spent = plan["cost"] * seconds / (3600 * plan["hours"]) if seconds else None
        rows.append(["cost", f"{plan['cost']:,.2f}", f"{spent:,.2f}" if spent is not None else DASH])
    return rows


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


def _peak_memory(run_data: dict[str, Any]) -> float | None:
    """Maximum of the memory in the step records: of the accelerator, or of the process on a CPU."""
    return max((step["memory"] for step in run_data["steps"] if step.get("memory")), default=None)


def _count(value: float | None) -> str:
    return DASH if value is None else formatting.count(value)


def _size(value: float | None) -> str:
    return "not measured" if value is None else formatting.byte_size(value)
