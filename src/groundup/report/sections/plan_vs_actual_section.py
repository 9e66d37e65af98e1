"""The plan beside what happened."""

from typing import Any

from groundup.plan.plan_table import format_flops
from groundup.report import formatting, training_plots
from groundup.report.elements import Cell, Element, figure, paragraph, section, table
from groundup.report.run_data import stage_metrics, stage_seconds

DASH = "–"


def plan_vs_actual_section(facts: dict[str, Any]) -> dict[str, Any] | None:
    plan = facts["plan"]
    rows = _rows(facts) if "parameters" in plan else []
    if not rows and not facts["stages"]:
        return None
    blocks: list[Element | None] = []
    if rows:
        blocks += [
            paragraph(
                "Before anything was computed, the plan derived from the recipe what the run would be and cost. "
                "Here it stands beside what came of it."
            ),
            table(("", "planned", "happened"), rows, "The plan and the run."),
        ]
    return section("The plan, and what happened", [*blocks, _time(facts)])


def _rows(facts: dict[str, Any]) -> list[list[Cell]]:
    plan, base = facts["plan"], stage_metrics(facts, "base")
    train, took = plan["train"], stage_seconds(facts, "base")
    vocabulary = stage_metrics(facts, "tokenizer").get("vocab_size")
    rows: list[list[Cell]] = [
        ["vocabulary", f"{plan['model']['vocab_size']:,}", f"{vocabulary:,}" if vocabulary else DASH],
        ["parameters", formatting.count(plan["parameters"]["total"]), _count(base.get("parameters"))],
        ["training tokens", formatting.count(train["tokens"]), _count(base.get("tokens"))],
        [
            "tokens for each parameter",
            formatting.three_digits(plan["tokens_per_parameter"]),
            formatting.three_digits(base["tokens"] / base["parameters"]) if base else DASH,
        ],
        ["optimizer steps", f"{train['steps']:,}", f"{base['steps']:,}" if base else DASH],
        [
            "arithmetic",
            format_flops(plan["total_flops"]),
            format_flops(plan["total_flops"] * base["tokens"] / train["tokens"]) if base else DASH,
        ],
        [
            "time for pretraining",
            formatting.duration(3600 * plan["hours"]),
            formatting.duration(took) if took else DASH,
        ],
    ]
    speed = base.get("speed", {}).get("tokens_per_second")
    foreseen = train["tokens"] / (3600 * plan["hours"]) if plan["hours"] else 0
    rows.append(
        [
            "tokens per second",
            formatting.count(foreseen),
            formatting.count(speed)
            if speed
            else formatting.count(base["tokens"] / took)
            if base and took
            else DASH,
        ]
    )
    if plan.get("memory"):
        rows.append(
            [
                "memory of each device",
                formatting.byte_size(plan["memory"]["total"]),
                _size(base.get("peak_memory")),
            ]
        )
    if plan.get("cost") is not None:
        spent = plan["cost"] * took / (3600 * plan["hours"]) if took else None
        rows.append(["cost", f"{plan['cost']:,.2f}", f"{spent:,.2f}" if spent is not None else DASH])
    return rows


def _time(facts: dict[str, Any]) -> Element | None:
    spent = [
        (stage["folder"], stage["provenance"].get("seconds", 0.0), None) for stage in facts["stages"].values()
    ]
    if len(spent) < 2:
        return None
    whole = sum(amount for _, amount, _ in spent)
    name, most, _ = max(spent, key=lambda row: row[1])
    return figure(
        "time",
        training_plots.plot_bars(spent, format_value=formatting.duration),
        f"Where the time went: {formatting.duration(whole)} in all, {formatting.percent(most, whole)} of it in {name}.",
        "Bars: " + ", ".join(f"{folder} {formatting.duration(amount)}" for folder, amount, _ in spent),
    )


def _count(value: float | None) -> str:
    return DASH if value is None else formatting.count(value)


def _size(value: float | None) -> str:
    return "not measured" if value is None else formatting.byte_size(value)
